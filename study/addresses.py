"""Addresses of servers that take a password. Owns how it leaves the address before anything keeps or shows that.

What holds an address is pickled, logged, recorded with runs and printed in commands, so it never has a password.
Standard library only.
"""

from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from study.printable import bare
from study.spec import InputError

ELSEWHERE = (
    "give it in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, MLFLOW_TRACKING_TOKEN, ~/.mlflow/credentials or,"
    " for PostgreSQL, PGPASSWORD or ~/.pgpass"
)


def check_bare(what: str, address: str, elsewhere: str) -> None:
    """Raise `InputError` for an address with a password, or with what may be a token."""
    if (shown := bare(address)) != address:
        raise InputError(f"{what} {shown} has a password, which would be kept and shown; {elsewhere}")


def apart(address: str) -> tuple[str, dict[str, str]]:
    """The tracking address without its password, and the variables in which MLflow and libpq look for that.

    Raises `InputError` for a password that no variable can have.
    """
    shown = bare(address)
    if shown == address:
        return address, {}
    parts = urlsplit(address)
    query = dict(parse_qsl(parts.query))
    kind = parts.scheme.partition("+")[0]
    user, password = (unquote(one or "") for one in (parts.username, parts.password or query.pop("password", "")))
    if kind in ("http", "https") and user and password and not parts.query:
        variables = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    elif kind in ("postgresql", "postgres") and password:
        variables = {"PGPASSWORD": password}
    else:
        raise InputError(
            f"tracking-uri {shown} has a password that cannot be kept apart from it (/ @ and the like are quoted there,"
            f" as %2F); {ELSEWHERE}"
        )
    host = parts.netloc.rpartition("@")[2]
    user_of = f"{parts.username}@" if parts.username and "PGPASSWORD" in variables else ""
    address = parts._replace(netloc=user_of + host, query=urlencode(query)).geturl()
    check_bare("tracking-uri", address, ELSEWHERE)
    return address, variables
