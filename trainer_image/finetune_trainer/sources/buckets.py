"""s3:// and gs:// sources: objects of a bucket, copied to the scratch folder.

`FT_S3_ENDPOINT` and `FT_S3_REGION` name an S3 server other than AWS, `FT_GS_ENDPOINT` a stand-in of Google's;
all may be URLs. Without mounted keys the identity that the cloud gives the pod is used, none other.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from pyarrow import fs

from finetune_trainer.errors import SourceUnavailableError, StageError, UserError
from finetune_trainer.reading.limits import CHUNK_BYTES
from finetune_trainer.sources.credentials import credential, credential_file
from finetune_trainer.sources.folders import choose, some
from finetune_trainer.sources.located import (
    DataFile,
    Located,
    folder_for,
    of_folder,
    refuse_size,
    save,
    top_entry,
)

_CONNECT_SECONDS = 10
_REQUEST_SECONDS = 60
_KEYS = {"s3": "accessKeyId and secretAccessKey", "gs": "serviceAccountJson"}
# What the two client libraries write into their errors, and what it means for the user.
_REFUSED = (
    r"ACCESS_DENIED|SIGNATURE|ACCESS_KEY|TOKEN|UserNotFound|PERMISSION_DENIED|UNAUTHENTICATED|status 40[13]"
)
_NO_BUCKET = r"NO_SUCH_BUCKET|bucket does not exist"
_EXPIRED = r"ExpiredToken|InvalidToken|TokenRefreshRequired"
_ELSEWHERE = r"status 301|AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraint"
_NO_REASON = r"HTTP status 400.*No response body"  # the answer to a HEAD has none


def fetch_objects(source: str, scratch: Path, dataset: str) -> Located:
    """Copy the object that `source` names, or those below its prefix that are `train` or `holdout`."""
    scheme, path = _split(source)
    with _explained(source, scheme):
        store = _store(scheme)
        found = store.get_file_info(path)
        if found.type == fs.FileType.File:
            return Located((_copy(store, path, source, folder_for(source, scratch)),))
        if found.type == fs.FileType.NotFound:
            raise UserError(f"{source} does not exist; {_what_is_there(store, path)}.")
        return _copy_folder(store, path, source, folder_for(source, scratch), dataset)


def _split(source: str) -> tuple[str, str]:
    scheme, _, path = source.partition("://")
    parts = path.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UserError(
            f"{source} is not understood; write {scheme}://bucket/key or {scheme}://bucket/prefix."
        )
    return scheme, "/".join(parts)


def _copy_folder(store: Any, path: str, source: str, folder: Path, dataset: str) -> Located:
    chosen = choose(source, lambda inner: _entries(store, f"{path}/{inner}".rstrip("/")), dataset)
    found = store.get_file_info([f"{path}/{name}" for name in chosen.files])
    refuse_size(sum(entry.size for entry in found), source)
    return of_folder(chosen, (_copy(store, entry.path, source, folder) for entry in found))


def _copy(store: Any, path: str, source: str, folder: Path) -> DataFile:
    with store.open_input_stream(path) as stream:
        return save(iter(lambda: stream.read(CHUNK_BYTES), b""), folder / PurePosixPath(path).name, source)


def _entries(store: Any, folder: str, *, may_be_absent: bool = False) -> dict[str, Any]:
    """What lies directly in a folder, by name; names of folders end with `/`.

    Google's folders are only parts of names: the library lists everything below or does not tell them.
    """
    deep = store.type_name == "gcs"
    listed = store.get_file_info(fs.FileSelector(folder, allow_not_found=may_be_absent, recursive=deep))
    return {top_entry(_inner_name(entry, folder)): entry for entry in listed}


def _inner_name(entry: Any, folder: str) -> str:
    end = "/" if entry.type == fs.FileType.Directory else ""
    return str(entry.path).removeprefix(f"{folder}/") + end


def _what_is_there(store: Any, path: str) -> str:
    """Names from the nearest folder that exists; listing a bucket that does not exist fails by itself."""
    bucket, *above = PurePosixPath(path).parts[:-1] or (path,)
    for depth in range(len(above), -1, -1):
        folder = "/".join([bucket, *above[:depth]])
        if entries := _entries(store, folder, may_be_absent=depth > 0):
            return f"{folder} holds {some(entries)}"
    return f"the bucket {bucket} is empty"


def _store(scheme: str) -> Any:
    return _s3() if scheme == "s3" else _gs()


def _s3() -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key=credential("dataset", "accessKeyId"),
        secret_key=credential("dataset", "secretAccessKey"),
        session_token=credential("dataset", "sessionToken"),
        region=os.environ.get("FT_S3_REGION") or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        tls_ca_file_path=os.environ.get("SSL_CERT_FILE") or None,
        **_endpoint("FT_S3_ENDPOINT"),
    )


def _gs() -> fs.GcsFileSystem:
    endpoint = _endpoint("FT_GS_ENDPOINT")
    if (key := credential_file("dataset", "serviceAccountJson")) is not None:
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)  # the library takes a key from nowhere else
    return fs.GcsFileSystem(
        anonymous=endpoint.get("scheme") == "http",  # a stand-in; no credential goes over plain HTTP
        retry_time_limit=timedelta(seconds=_REQUEST_SECONDS),
        **endpoint,
    )


def _endpoint(variable: str) -> dict[str, str]:
    scheme, _, host = os.environ.get(variable, "").rstrip("/").rpartition("://")
    return {"endpoint_override": host, "scheme": scheme or "https"} if host else {}


@contextmanager
def _explained(source: str, scheme: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise _sentence(source, scheme, str(error)) from error


def _sentence(source: str, scheme: str, error: str) -> StageError:
    """What a client library's text means."""
    if re.search(_NO_BUCKET, error):
        return UserError(f"{source}: there is no such bucket; check its name and the endpoint.")
    if re.search(_EXPIRED, error):
        text = f"{source} refuses the session token ({_cause(error)}); write new temporary keys"
        return UserError(f"{text} (accessKeyId, secretAccessKey, sessionToken) into credentialsSecretRef.")
    if re.search(_ELSEWHERE, error):
        text = f"{source} is refused as a request to another region ({_cause(error)})"
        return UserError(f"{text}; the administrator sets region and endpoint.")
    if re.search(_NO_REASON, error):
        text = f"{source} is refused without a reason (HTTP status 400): sessionToken in"
        text = f"{text} credentialsSecretRef is expired or malformed, or it is a request to another region"
        return UserError(f"{text}; renew the token, or the administrator sets region and endpoint.")
    if re.search(_REFUSED, error):
        text = f"{source} refuses access ({_cause(error)}); check {_KEYS[scheme]} in credentialsSecretRef"
        return UserError(f"{text} and that they may read and list the bucket.")
    return SourceUnavailableError(f"{source} cannot be read now ({_cause(error)}); it is tried again.")


def _cause(error: str) -> str:
    """The telling part of a client library's text."""
    found = re.search(
        r"AWS Error (?:UNKNOWN.*ExceptionName: )?(\w+)|Message: ([^(]+)|google::cloud::Status\((\w+)", error
    )
    named = next((group for group in found.groups() if group), "") if found else ""
    return named.strip() or error.splitlines()[0][:120]
