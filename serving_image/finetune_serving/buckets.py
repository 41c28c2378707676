"""A model folder in an object store, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX, copied to the disk.

`FT_S3_ENDPOINT` and `FT_S3_REGION` name an S3 service other than AWS, `FT_GS_ENDPOINT` a stand-in of
Google's; all may be URLs. Without mounted keys the identity that the cloud gives the pod is used, none other.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyarrow import fs

_CONNECT_SECONDS = 10
_REQUEST_SECONDS = 60
_COPIES = 4  # files at a time
_CHUNK_BYTES = 32 * 1024 * 1024
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHOWN = 8  # names in a sentence
_KEYS = {"s3": "accessKeyId and secretAccessKey", "gs": "serviceAccountJson"}
# What the two client libraries write into their errors, and what it means for the user.
_REFUSED = r"ACCESS_DENIED|SIGNATURE|ACCESS_KEY|TOKEN|PERMISSION_DENIED|UNAUTHENTICATED|status 40[13]"
_NO_BUCKET = r"NO_SUCH_BUCKET|bucket does not exist"
_EXPIRED = r"ExpiredToken|InvalidToken|TokenRefreshRequired"
_ELSEWHERE = r"status 301|AuthorizationHeaderMalformed|PermanentRedirect|IllegalLocationConstraint"
_NO_REASON = r"HTTP status 400.*No response body"  # the answer to a HEAD has none


class BucketError(Exception):
    """The folder cannot be copied; the message says why, and what to do."""


@dataclass(frozen=True)
class _Object:
    """A file of the folder; `changed` is when it was written (nanoseconds of Unix time)."""

    name: str
    path: str
    size: int
    changed: int


def copy_folder(source: str, target: Path, credentials: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the wanted files directly below `source` into `target`, which holds nothing else afterwards.

    A file that is there is not copied again while size and time are those of the object. `credentials` is
    the folder of a mounted Secret, which need not exist.
    """
    scheme, _, path = source.rstrip("/").partition("://")
    target.mkdir(parents=True, exist_ok=True)
    with _explained(source, scheme):
        store = _s3(credentials) if scheme == "s3" else _gs(credentials)
        found = _listed(store, path)
        objects = [one for one in found if wanted(one.name)]
        if not any(one.name.endswith(".safetensors") for one in objects):
            raise BucketError(f"{source} holds no *.safetensors file; {_what_is_there(found)}")
        _remove_others(target, objects)
        with ThreadPoolExecutor(_COPIES) as pool:
            for _ in pool.map(lambda one: _copy(store, one, target), objects):
                pass


def _listed(store: Any, path: str) -> list[_Object]:
    """The files directly below; Google's client lists folders only with everything in them."""
    listed = store.get_file_info(fs.FileSelector(path, recursive=store.type_name == "gcs"))
    files = [info for info in listed if info.type == fs.FileType.File]
    named = [(info.path.removeprefix(f"{path}/"), info) for info in files]
    return [
        _Object(name, info.path, info.size, info.mtime_ns or 0) for name, info in named if "/" not in name
    ]


def _what_is_there(found: list[_Object]) -> str:
    names = sorted(one.name for one in found)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it holds {', '.join(names[:_SHOWN])}{more}" if names else "it holds no file at all"


def _remove_others(folder: Path, objects: list[_Object]) -> None:
    """Remove what is of no object, the rest of a copy that was cut among it."""
    kept = {one.name for one in objects}
    for file in folder.iterdir():
        if file.is_file() and file.name not in kept:
            file.unlink()


def _copy(store: Any, one: _Object, folder: Path) -> None:
    whole, partial = folder / one.name, folder / f".{one.name}.partial"
    if whole.is_file() and (whole.stat().st_size, whole.stat().st_mtime_ns) == (one.size, one.changed):
        return
    with store.open_input_stream(one.path) as source, partial.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
    if partial.stat().st_size != one.size:
        raise OSError(f"{one.name} changed while it was read")
    os.utime(partial, ns=(one.changed, one.changed))
    partial.replace(whole)


def _s3(credentials: Path) -> fs.S3FileSystem:
    return fs.S3FileSystem(
        access_key=_credential(credentials, "accessKeyId"),
        secret_key=_credential(credentials, "secretAccessKey"),
        session_token=_credential(credentials, "sessionToken"),
        region=os.environ.get("FT_S3_REGION") or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        tls_ca_file_path=os.environ.get("SSL_CERT_FILE") or None,
        **_endpoint("FT_S3_ENDPOINT"),
    )


def _gs(credentials: Path) -> fs.GcsFileSystem:
    endpoint, key = _endpoint("FT_GS_ENDPOINT"), credentials / "serviceAccountJson"
    if key.is_file():
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(key)  # the library takes a key from nowhere else
    return fs.GcsFileSystem(
        anonymous=endpoint.get("scheme") == "http",  # a stand-in; no credential goes over plain HTTP
        retry_time_limit=timedelta(seconds=_REQUEST_SECONDS),
        **endpoint,
    )


def _credential(folder: Path, key: str) -> str | None:
    file = folder / key
    return (file.read_text().strip() or None) if file.is_file() else None


def _endpoint(variable: str) -> dict[str, str]:
    scheme, _, host = os.environ.get(variable, "").rstrip("/").rpartition("://")
    return {"endpoint_override": host, "scheme": scheme or "https"} if host else {}


@contextmanager
def _explained(source: str, scheme: str) -> Iterator[None]:
    """What a client library's text means; a disk without space is no matter of the store."""
    try:
        yield
    except FileNotFoundError as error:
        raise BucketError(f"{source} does not exist; check prefix and endpoint") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in _NO_SPACE:
            raise
        raise BucketError(_sentence(source, scheme, str(error))) from error


def _sentence(source: str, scheme: str, error: str) -> str:
    if re.search(_NO_BUCKET, error):
        return f"{source}: there is no such bucket; check its name and the endpoint"
    if re.search(_EXPIRED, error):
        text = f"{source} refuses the session token ({_cause(error)}); write new temporary keys"
        return f"{text} (accessKeyId, secretAccessKey, sessionToken) into credentialsSecretRef"
    if re.search(_ELSEWHERE, error):
        text = f"{source} is refused as a request to another region ({_cause(error)})"
        return f"{text}; the administrator sets region and endpoint"
    if re.search(_NO_REASON, error):
        text = f"{source} is refused without a reason (HTTP status 400): sessionToken in"
        text = f"{text} credentialsSecretRef is expired or malformed, or it is a request to another region"
        return f"{text}; renew the token, or the administrator sets region and endpoint"
    if re.search(_REFUSED, error):
        text = f"{source} refuses access ({_cause(error)}); check {_KEYS[scheme]} in credentialsSecretRef"
        return f"{text} and that they may read and list the bucket"
    return f"{source} cannot be read now ({_cause(error)}); it is tried again"


def _cause(error: str) -> str:
    """The telling part of a client library's text."""
    found = re.search(
        r"AWS Error (?:UNKNOWN.*ExceptionName: )?(\w+)|Message: ([^(]+)|google::cloud::Status\((\w+)", error
    )
    named = next((group for group in found.groups() if group), "") if found else ""
    return named.strip() or error.splitlines()[0][:120]
