"""`tokens create | list | revoke`."""

from __future__ import annotations

import hashlib
import re
import secrets
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.admin.ledger import opened
from service.errors import RequestInvalidError
from service.repositories import tokens as store
from service.repositories.tokens import StoredToken, Token

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Tells scanners of leaked secrets, and people, what it is.
PREFIX = "bnr_"


def add_command(commands: Any) -> None:
    """Add the commands."""
    parser = commands.add_parser("tokens", help="make, list and revoke tokens")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    making = actions.add_parser("create", help="make a token; it is printed once")
    making.add_argument(
        "name", metavar="NAME", help="letters, digits, dots, dashes: the owner of what it makes"
    )
    making.add_argument("--admin", action="store_true", help="sees what others own")
    making.add_argument(
        "--limit-bytes", type=int, metavar="N", help="most bytes that its owner keeps"
    )
    making.add_argument(
        "--limit-open", type=int, metavar="N", help="most recalibrations that have not ended"
    )
    making.set_defaults(run=create)
    actions.add_parser("list", help="list the tokens").set_defaults(run=show)
    revoking = actions.add_parser("revoke", help="take a token back; what it made stays")
    revoking.add_argument("name", metavar="NAME", help="as `tokens list` shows it")
    revoking.set_defaults(run=revoke)


def create(folder: Path, args: Namespace) -> dict[str, Any]:
    """Make a token and return it, for the only time.

    Raises:
        RequestInvalidError: the name or a limit makes no sense.
        TokenExistsError: the name is taken.
    """
    if _NAME.fullmatch(args.name) is None:
        raise RequestInvalidError("a token's name has 1 to 64 letters, digits, dots or dashes")
    if any(limit is not None and limit < 0 for limit in (args.limit_bytes, args.limit_open)):
        raise RequestInvalidError("a limit is a number from 0 on")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=args.name,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        admin=args.admin,
        limit_bytes=args.limit_bytes,
        limit_open=args.limit_open,
    )
    with opened(folder) as ledger:
        ledger.write(lambda tx: store.insert(tx, token))
    return {"name": token.name, "token": secret}


def show(folder: Path, args: Namespace) -> dict[str, Any]:
    """List the tokens."""
    del args
    with opened(folder) as ledger:
        return {"tokens": [_row(one) for one in ledger.read(store.everyone)]}


def revoke(folder: Path, args: Namespace) -> dict[str, Any]:
    """Take a token back.

    Raises:
        NotFoundError: there is none of this name.
    """
    with opened(folder) as ledger:
        ledger.write(lambda tx: store.delete(tx, args.name))
    return {"revoked": args.name}


def _row(stored: StoredToken) -> dict[str, Any]:
    token = stored.token
    return {
        "name": token.name,
        "admin": token.admin,
        "limit_bytes": token.limit_bytes,
        "limit_open": token.limit_open,
        "created": stored.created,
    }
