"""MLflow's scoring protocol: JSON in, JSON out, as `mlflow models serve` speaks it.

POST /invocations   {"dataframe_split": {"columns": [...], "data": [[...]]}}
                    {"dataframe_records": [{...}]}   {"instances": [{...}]}   {"inputs": {...}}
                    and beside it "params": {"n_best": 3, "distribution": true}
answer              {"predictions": [{"label": ..., "probability": ...}]}
refusal             {"error_code": "BAD_DATA", "message": "..."}
"""

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.names import printable

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
PARAMS = ("n_best", "distribution")
MAX_TOLD = 1_000


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask."""

    max_bytes: int = 16 << 20
    max_rows: int = 1_000
    max_steps: int = 100_000  # of one row
    max_waiting: int = 256  # requests
    timeout: float = 60.0  # seconds


class Refused(Exception):
    """A request that gets no answer, and why."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    def to_json(self) -> dict[str, str]:
        """The body of the answer; values of the request in it are cut and made printable."""
        return {"error_code": self.code, "message": printable(str(self))[:MAX_TOLD]}


@dataclass(frozen=True)
class Asked:
    """Rows by column, and what is wanted of each."""

    columns: Mapping[str, Sequence[Any]]
    num_rows: int
    n_best: int = 0
    distribution: bool = False

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind can be answered together."""
        return (tuple(sorted(self.columns)), self.n_best, self.distribution)


def read(body: bytes, content_type: str, limits: Limits) -> Asked:
    """The rows of a request.

    Raises:
        Refused: it is no JSON, or not of these forms, or asks for too much.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        told = f"received {content_type or 'no content type'}, expected application/json: rows are lists"
        raise Refused(415, "UNSUPPORTED_MEDIA_TYPE", told)
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "BAD_REQUEST", f"the body is no JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Refused(400, "BAD_REQUEST", f"the body is no object; give one of {', '.join(FORMS)}")
    forms = [name for name in asked if name in FORMS]
    if len(forms) != 1 or set(asked) - {*forms, "params"}:
        told = f"received the keys {', '.join(sorted(asked)) or 'none'}; expected one of {', '.join(FORMS)}"
        raise Refused(400, "BAD_REQUEST", f"{told}, and params if you like")
    columns = _columns(forms[0], asked[forms[0]])
    num_rows = _num_rows(columns)
    _check_size(columns, num_rows, limits)
    return Asked(columns, num_rows, **_params(asked.get("params") or {}))


def _columns(form: str, given: Any) -> dict[str, list[Any]]:
    if form == "dataframe_split":
        return _split(given)
    if isinstance(given, dict) and form == "inputs":
        wrong = [name for name, values in given.items() if not isinstance(values, list)]
        if wrong:
            raise Refused(400, "BAD_REQUEST", f"inputs: {wrong[0]!r} is no list with a value for each row")
        return given
    if not isinstance(given, list):
        raise Refused(400, "BAD_REQUEST", f"{form} is no list of records")
    for row, record in enumerate(given):
        if not isinstance(record, dict):
            raise Refused(400, "BAD_REQUEST", f"{form}: row {row} is no record of columns by name")
    names = dict.fromkeys(name for record in given for name in record)
    return {name: [record.get(name) for record in given] for name in names}


def _split(given: Any) -> dict[str, list[Any]]:
    names, data = (given.get(key) for key in ("columns", "data")) if isinstance(given, dict) else (None, None)
    if not isinstance(names, list) or not isinstance(data, list):
        raise Refused(400, "BAD_REQUEST", "dataframe_split has no lists `columns` and `data`")
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise Refused(400, "BAD_REQUEST", "dataframe_split: columns are no different names")
    for row, values in enumerate(data):
        if not isinstance(values, list) or len(values) != len(names):
            told = f"dataframe_split: row {row} is no list of {len(names)} values, one for each column"
            raise Refused(400, "BAD_REQUEST", told)
    return {name: [values[place] for values in data] for place, name in enumerate(names)}


def _num_rows(columns: Mapping[str, Sequence[Any]]) -> int:
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise Refused(400, "BAD_REQUEST", f"the columns have different numbers of rows: {told}")
    num_rows = next(iter(sizes.values()), 0)
    if not num_rows:
        raise Refused(400, "BAD_REQUEST", "there are no rows")
    return num_rows


def _check_size(columns: Mapping[str, Sequence[Any]], num_rows: int, limits: Limits) -> None:
    if num_rows > limits.max_rows:
        told = f"received {num_rows:,} rows, and a request may have {limits.max_rows:,}"
        raise Refused(413, "TOO_LARGE", told)
    for name, values in columns.items():
        for row, value in enumerate(values):
            if isinstance(value, list) and len(value) > limits.max_steps:
                told = f"{name!r}, row {row}: {len(value):,} steps, and a row may have {limits.max_steps:,}"
                raise Refused(413, "TOO_LARGE", told)


def _params(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise Refused(400, "BAD_REQUEST", "params is no object")
    if unknown := sorted(set(given) - set(PARAMS)):
        raise Refused(400, "BAD_REQUEST", f"unknown params {unknown}; known: {', '.join(PARAMS)}")
    n_best, distribution = given.get("n_best", 0), given.get("distribution", False)
    if not isinstance(n_best, int) or isinstance(n_best, bool) or n_best < 0:
        raise Refused(400, "BAD_REQUEST", f"params: n_best is {n_best!r}, expected a whole number from 0 on")
    if not isinstance(distribution, bool):
        raise Refused(400, "BAD_REQUEST", f"params: distribution is {distribution!r}, expected true or false")
    return {"n_best": n_best, "distribution": distribution}


def written(columns: Mapping[str, Sequence[Any]]) -> bytes:
    """The answer to rows, in their order; numbers keep every bit."""
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return json.dumps({"predictions": records}, ensure_ascii=False).encode(errors="backslashreplace")


def knows(authorization: str, token: str) -> bool:
    """Whether a request carries the token; how long that takes says nothing of it."""
    scheme, _, given = authorization.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())
