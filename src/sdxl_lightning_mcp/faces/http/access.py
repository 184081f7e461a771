"""Who calls: API keys, OAuth access tokens, and links that are signed and expire."""

import hashlib
import hmac
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import jwt
from starlette.datastructures import Headers

from sdxl_lightning_mcp.database import Database
from sdxl_lightning_mcp.faces.http.problems import Refusal
from sdxl_lightning_mcp.keys import PREFIX, Keys
from sdxl_lightning_mcp.settings import Settings

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
RESOURCE_METADATA = "/.well-known/oauth-protected-resource"
FETCH_SECONDS = 10.0
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Caller:
    """Whoever makes a request: `owner` is whom its runs belong to, None where nobody asks.

    `url` is how it reaches this server.
    """

    owner: str | None = None
    url: str = ""


# The caller of the request that is being answered, for what is behind the MCP SDK too.
caller: ContextVar[Caller] = ContextVar("caller", default=Caller())  # noqa: B039, it is frozen


class Access:
    """Tells who calls, by the Authorization header."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._keys = keys
        self._oauth = OAuth(settings) if settings.oauth_issuer else None
        self._required, self._looked = self._oauth is not None, -LOOK_SECONDS

    async def required(self) -> bool:
        """Whether calls need a key or token: OAuth is set, or there ever was a key.

        The first key closes an open server within a second.
        """
        if not self._required and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._required = await anyio.to_thread.run_sync(self._keys.any)
            self._looked = time.monotonic()
        return self._required

    async def identify(self, headers: Headers, url: str) -> Caller:
        """Who calls.

        Raises:
            Refusal: 401, without a valid key or token where one is needed.
        """
        if not await self.required():
            return Caller(None, url)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise self._refused(url, "key_missing", "Send a key: Authorization: Bearer sdxl_...")
        if token.startswith(PREFIX):
            key = await anyio.to_thread.run_sync(self._keys.find, token)
            if key is None:
                raise self._refused(url, "key_unknown", "There is no such key.")
            if key.revoked:
                raise self._refused(url, "key_revoked", f"The key {key.id} was revoked.")
            return Caller(key.id, url)
        if self._oauth is None:
            raise self._refused(url, "key_unknown", "There is no such key.")
        try:
            return Caller(await self._oauth.subject(token, url), url)
        except jwt.PyJWTError as error:
            raise self._refused(
                url, "token_invalid", f"The token is not accepted: {error}."
            ) from None

    def metadata(self, url: str, path: str) -> dict[str, Any]:
        """What RFC 9728 wants to be said of this resource; only with OAuth.

        Raises:
            Refusal: 404, where there is no OAuth.
        """
        if self._oauth is None:
            raise Refusal(404, "not_found", "This server takes no OAuth tokens.")
        return self._oauth.metadata(url, path)

    def _refused(self, url: str, code: str, detail: str) -> Refusal:
        challenge = 'Bearer realm="sdxl-lightning-mcp"'
        if code != "key_missing":
            challenge += ', error="invalid_token"'
        if self._oauth:
            challenge += f', resource_metadata="{url}{RESOURCE_METADATA}"'
        return Refusal(401, code, detail, headers={"WWW-Authenticate": challenge})


class OAuth:
    """Access tokens (JWT) of one issuer, for this resource, checked against its published keys."""

    def __init__(self, settings: Settings) -> None:
        assert settings.oauth_issuer
        self._issuer = settings.oauth_issuer
        self._audience, self._scope = settings.oauth_audience, settings.oauth_scope
        self._keys: jwt.PyJWKSet | None = None
        self._fetched = 0.0
        self._lock = anyio.Lock()

    async def subject(self, token: str, url: str) -> str:
        """Whom a token speaks for.

        Raises:
            PyJWTError: It is not valid, or not for us.
        """
        key = await self._key(jwt.get_unverified_header(token).get("kid"))
        claims = jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            issuer=self._issuer,
            audience=self._audience or [url, f"{url}/mcp"],
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if self._scope and self._scope not in str(claims.get("scope", "")).split():
            raise jwt.InvalidTokenError(f"the scope {self._scope} is missing")
        return f"oauth:{claims['sub']}"

    def metadata(self, url: str, path: str) -> dict[str, Any]:
        """The protected resource metadata."""
        scopes = {"scopes_supported": [self._scope]} if self._scope else {}
        return {
            "resource": self._audience or url + path,
            "authorization_servers": [self._issuer],
            "bearer_methods_supported": ["header"],
            "resource_name": "sdxl-lightning-mcp",
            **scopes,
        }

    async def _key(self, key_id: str | None) -> jwt.PyJWK:
        """The issuer's key; fetched anew for one that is not known, at most once a minute."""
        async with self._lock:
            for _ in range(2):
                found = [
                    key
                    for key in (self._keys.keys if self._keys else ())
                    if key_id is None or key.key_id == key_id
                ]
                if found:
                    return found[0]
                if self._keys and time.monotonic() - self._fetched < 60:
                    break
                await self._fetch()
        raise jwt.InvalidTokenError("its key is none of the issuer's")

    async def _fetch(self) -> None:
        base = self._issuer.rstrip("/")
        try:
            async with httpx2.AsyncClient(timeout=FETCH_SECONDS) as client:
                for name in ("oauth-authorization-server", "openid-configuration"):
                    told = await client.get(f"{base}/.well-known/{name}")
                    if told.is_success:
                        keys = await client.get(told.raise_for_status().json()["jwks_uri"])
                        self._keys = jwt.PyJWKSet.from_dict(keys.raise_for_status().json())
                        self._fetched = time.monotonic()
                        return
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            raise jwt.InvalidTokenError(f"the issuer's keys cannot be got: {error}") from error
        raise jwt.InvalidTokenError(f"{base} tells nothing of its keys")


class Links:
    """Links to pictures for clients without a key: signed, and valid for a time."""

    def __init__(self, database: Database, seconds: float) -> None:
        self._database, self._seconds = database, seconds
        self._secret: bytes | None = None

    def open(self) -> None:
        """Gets the secret, which all servers of this record share; waits for the disk."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO secrets VALUES ('links', ?)", (secrets.token_bytes(32),)
            )
        (row,) = self._database.read("SELECT value FROM secrets WHERE name = 'links'")
        self._secret = row["value"]

    def query(self, run_id: str, owner: str | None) -> str:
        """The query of a link to a run's picture, from now on."""
        expires = int(time.time() + self._seconds)
        return f"expires={expires}&signature={self._sign(run_id, owner, str(expires))}"

    def check(self, run_id: str, owner: str | None, expires: str, signature: str) -> None:
        """Whether a link is ours and holds still.

        Raises:
            Refusal: 403, with what is wrong.
        """
        expected = self._sign(run_id, owner, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace")):
            raise Refusal(403, "link_forged", "The link's signature is not right.")
        if int(expires) < time.time():
            raise Refusal(403, "link_expired", "The link has expired. Get the run again.")

    def _sign(self, run_id: str, owner: str | None, expires: str) -> str:
        assert self._secret is not None
        text = f"{run_id}\n{owner or ''}\n{expires}"
        return hmac.new(self._secret, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
