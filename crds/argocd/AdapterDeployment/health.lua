-- argocd-cm: resource.customizations.health.finetune.dev_AdapterDeployment
-- A deployment is Healthy when the adapter it asks for answers; on a server scaled to zero, or
-- while its rollout is paused, it is Suspended.
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

local ready, stalled, moving = condition("Ready"), condition("Stalled"), condition("Reconciling")
if is(stalled, "True") then
  return health("Degraded", stalled, "Stalled")
end
if is(moving, "True") then
  return health("Progressing", moving, "Not there yet")
end
if is(ready, "True") then
  return health("Healthy", ready, "Ready")
end
if ready ~= nil and ready.reason == "Stopped" then
  return health("Suspended", ready, "Scaled to zero")
end
if ready ~= nil and ready.reason == "Paused" then
  return health("Suspended", ready, "The rollout is paused")
end
return health("Progressing", ready, "Not ready yet")
