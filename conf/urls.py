"""URLs among paths: the schemes that rows are read by, and whether something in a URL is secret.

data.csv                         a path
s3://bucket/rows/*.parquet       a URL of a known scheme
ftp://host/a.csv  data:text,a    of one that is not
s3://key:SECRET@bucket/a.csv     secret before the `@`
https://host/a.csv?sig=SECRET    or in the query
"""

import glob
import os
import re

# Those that pyarrow's own file systems answer, then fsspec's.
DATA_SCHEMES = (
    *("file", "s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"),
    *("http", "https", "hf"),
)
EXPECTED = "expected a path, file://, s3://, gs://, abfs://, hdfs://, https://, http:// or hf://"

# Two letters at least: a drive of Windows is no scheme.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")
# A secret may hold slashes, though it should not; a port may not be taken for one.
_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/@]*:(?!\d+(?:/|$)).*@")
# What stands there alone is often a token.
_WEB_USER = re.compile(r"(?i)https?://[^/?#]*@")
_SECRET_OPTION = re.compile(
    r"(?i)[?&](?:key|(?:[^=&]*[-_.])?(?:password|passwd|pwd|secret|token|signature|sig"
    r"|(?:api|access|account|secret|shared|auth)[-_]?key))="
)


def is_url(path: str) -> bool:
    """Whether a path begins with a scheme and `://`, whatever the scheme."""
    hit = _SCHEME.match(path)
    return hit is not None and hit[2] is not None


def unknown_scheme(path: str, *, folder: str = "") -> str:
    """The scheme of a path that rows are not read by; empty for others.

    A name with a colon is no scheme where such a file is in the folder, or where it is a pattern.
    """
    hit = _SCHEME.match(path)
    if hit is None or hit[1].lower() in DATA_SCHEMES:
        return ""
    if hit[2] is None and (glob.has_magic(path) or os.path.lexists(os.path.join(folder, path))):
        return ""
    return hit[1].lower()


def has_secret(url: str) -> bool:
    """Whether a URL carries a password, a token or a signature; the id of a key alone is none."""
    patterns = (_PASSWORD, _WEB_USER, _SECRET_OPTION)
    return is_url(url) and any(pattern.search(url) for pattern in patterns)


def without_secret_options(query: str) -> str:
    """A query, with its `?`, without the options that are secret."""
    kept = [each for each in query.removeprefix("?").split("&") if not _SECRET_OPTION.search(f"?{each}")]
    return f"?{'&'.join(kept)}" if any(kept) else ""
