"""`tokens create | list | revoke`."""

from __future__ import annotations

import hashlib
import re
import secrets
from argparse import Namespace
from pathlib import Path
from typing import Any

from service.errors import RequestInvalidError
from service.repositories import tokens as store
from service.repositories.records import StoredToken, Token
from service.storage.ledger.maintenance import open_ledger

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Identifies a token for people and for scanners of leaked secrets.
PREFIX = "bnr_"


def add_command(commands: Any) -> None:
    """Add the commands."""
    parser = commands.add_parser("tokens", help="create, list and revoke tokens")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    making = actions.add_parser("create", help="create a token; it is printed once")
    making.add_argument(
        "name", metavar="NAME", help="letters, digits, dots, dashes; owns what is created with it"
    )
    making.add_argument(
        "--admin", action="store_true", help="give access to the data of all owners"
    )
    making.add_argument(
        "--limit-bytes", type=int, metavar="N", help="maximum bytes that its owner stores"
    )
    making.add_argument(
        "--limit-open", type=int, metavar="N", help="maximum recalibrations that have not ended"
    )
    making.set_defaults(run=create, needs_folder=False)
    listing = actions.add_parser("list", help="list the tokens")
    listing.set_defaults(run=show, needs_folder=True)
    revoking = actions.add_parser("revoke", help="revoke a token; its owner's data stays")
    revoking.add_argument("name", metavar="NAME", help="name as in `tokens list`")
    revoking.set_defaults(run=revoke, needs_folder=True)


def create(folder: Path, args: Namespace) -> dict[str, Any]:
    """Create a token and return it; it cannot be shown again.

    Raises:
        RequestInvalidError: the name or a limit is invalid.
        TokenExistsError: there is a token with this name.
    """
    if _NAME.fullmatch(args.name) is None:
        raise RequestInvalidError("a token's name has 1 to 64 letters, digits, dots or dashes")
    if any(limit is not None and limit < 0 for limit in (args.limit_bytes, args.limit_open)):
        raise RequestInvalidError("a limit must not be negative")
    secret = PREFIX + secrets.token_urlsafe(32)
    token = Token(
        name=args.name,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        admin=args.admin,
        limit_bytes=args.limit_bytes,
        limit_open=args.limit_open,
    )
    with open_ledger(folder, args.settings.ledger) as ledger:
        ledger.write(lambda tx: store.insert(tx, token))
    return {"name": token.name, "token": secret}


def show(folder: Path, args: Namespace) -> dict[str, Any]:
    """List the tokens."""
    with open_ledger(folder, args.settings.ledger) as ledger:
        return {"tokens": [_row(one) for one in ledger.read(store.all_tokens)]}


def revoke(folder: Path, args: Namespace) -> dict[str, Any]:
    """Revoke a token.

    Raises:
        NotFoundError: there is no token with this name.
    """
    with open_ledger(folder, args.settings.ledger) as ledger:
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
