-- argocd-cm: resource.customizations.health.finetune.dev_FineTuneJob
-- A run is Healthy when it succeeded. Suspended, or waiting for what comes by itself (quota, a node), is
-- Suspended, so that a sync does not wait for it; what only a person can mend is Stalled and so Degraded.
local function condition(kind)
  if obj.status ~= nil and obj.status.conditions ~= nil then
    for _, entry in ipairs(obj.status.conditions) do
      if entry.type == kind then
        return entry
      end
    end
  end
  return nil
end

local function is(entry, status)
  return entry ~= nil and entry.status == status
end

local function health(status, entry, otherwise)
  local message = otherwise
  if entry ~= nil and entry.message ~= nil and entry.message ~= "" then
    message = entry.message
  end
  return { status = status, message = message }
end

-- An old status says nothing about a changed spec.
if obj.status == nil or obj.status.observedGeneration == nil
  or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", nil, "Waiting for the operator")
end

local succeeded, stalled, admitted = condition("Succeeded"), condition("Stalled"), condition("Admitted")
if is(succeeded, "True") then
  return health("Healthy", succeeded, "Succeeded")
end
if is(succeeded, "False") then
  return health("Degraded", succeeded, "Failed")
end
if is(stalled, "True") then
  return health("Degraded", stalled, "Stalled")
end
if obj.spec.suspend == true then
  return health("Suspended", nil, "Suspended by spec.suspend")
end
if is(admitted, "False") then
  return health("Suspended", admitted, "Waiting for resources")
end
return health("Progressing", succeeded, obj.status.stage or "Running")
