"""Gets tokens from an emulator of Cognito in every way that AWS documents.

    emulator_tokens.py ORIGIN REGION

It makes a user pool with clients, a user and a resource server, and prints a JSON object: the pool, its
clients, and for each way to a token either the token or what the emulator answered. emulators.py runs it
with boto3, pycognito and requests.
"""

import base64
import hashlib
import html.parser
import io
import json
import secrets
import sys
import urllib.parse
import zipfile

import boto3
import requests
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from pycognito.aws_srp import AWSSRP

ORIGIN, REGION = sys.argv[1:3]
USER, PASSWORD = "alice@example.com", "Passw0rd!"
SCOPE = "activity/*"
CALLBACK = "http://localhost:3000/callback"
# Decides in the first round that the user may sign in. A real one asks the user something first.
CUSTOM_CHALLENGE = """
def handler(event, context):
    event["response"].update(issueTokens=True, failAuthentication=False)
    return event
"""


def service(name, **settings):
    config = Config(retries={"total_max_attempts": 1}, read_timeout=60, **settings)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(name, region_name=REGION, endpoint_url=ORIGIN, config=config, **keys)


sdk = service("cognito-idp")
unsigned = service("cognito-idp", signature_version=UNSIGNED)
# `ways` has every way in order, with the answer if there is no token.
found = {"ways": {}, "tokens": {}}


class Answered(Exception):
    """What an emulator answers instead of a token."""


def way(name, call):
    """Records the token that `call` returns, or the answer."""
    found["ways"][name] = None
    try:
        found["tokens"][name] = call()
    except ClientError as error:
        status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
        found["ways"][name] = f"{status} `{code}`" if code != str(status) else code
    except Answered as answer:
        found["ways"][name] = str(answer)
    except Exception as error:
        # The client does not understand the answer.
        found["ways"][name] = f"`{type(error).__name__}` in the client"


def described(response):
    """Returns the status of an answer, and its error, if it has one."""
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        location = urllib.parse.urlsplit(response.headers.get("Location", ""))
        error = urllib.parse.parse_qs(location.query).get("error", [""])[0]
    return f"{response.status_code} `{error}`" if error else str(response.status_code)


# ---- The pool ----------------------------------------------------------------------------------

pool = found["pool"] = sdk.create_user_pool(PoolName="test")["UserPool"]["Id"]
try:
    scopes = [{"ScopeName": name, "ScopeDescription": name} for name in ("*", "read")]
    sdk.create_resource_server(UserPoolId=pool, Identifier="activity", Name="activity", Scopes=scopes)
except ClientError as error:
    print(f"CreateResourceServer: {error}", file=sys.stderr)


def client(name, **settings):
    return sdk.create_user_pool_client(UserPoolId=pool, ClientName=name, **settings)["UserPoolClient"]


FLOWS = ("USER_PASSWORD", "ADMIN_USER_PASSWORD", "REFRESH_TOKEN", "USER_SRP", "CUSTOM", "USER")
web = client("web", ExplicitAuthFlows=[f"ALLOW_{flow}_AUTH" for flow in FLOWS])["ClientId"]
on_pages = {
    "AllowedOAuthFlowsUserPoolClient": True,
    "AllowedOAuthFlows": ["code", "implicit"],
    "AllowedOAuthScopes": ["openid", SCOPE],
    "CallbackURLs": [CALLBACK],
    "SupportedIdentityProviders": ["COGNITO"],
}
hosted = client("hosted", **on_pages)["ClientId"]
choice = client("choice", ExplicitAuthFlows=["ALLOW_USER_AUTH"], **on_pages)["ClientId"]
machine = client(
    "machine",
    GenerateSecret=True,
    AllowedOAuthFlowsUserPoolClient=True,
    AllowedOAuthFlows=["client_credentials"],
    AllowedOAuthScopes=[SCOPE],
)
ID, SECRET = machine["ClientId"], machine.get("ClientSecret", "none")
found["clients"] = [web, hosted, choice, ID]
sdk.admin_create_user(UserPoolId=pool, Username=USER, MessageAction="SUPPRESS")
sdk.admin_set_user_password(UserPoolId=pool, Username=USER, Password=PASSWORD, Permanent=True)

# ---- The API of user pools ---------------------------------------------------------------------


def user(call, **parameters):
    answer = call(**parameters)
    if "AuthenticationResult" not in answer:
        raise Answered(f"200 {answer.get('ChallengeName', '')}".strip())
    result = answer["AuthenticationResult"]
    found.setdefault("id", result.get("IdToken"))
    found.setdefault("refresh", result.get("RefreshToken"))
    return result["AccessToken"]


def initiate(flow, call=sdk.initiate_auth, more={}, **parameters):
    return user(call, AuthFlow=flow, ClientId=web, AuthParameters=parameters, **more)


def admin(flow, **parameters):
    return initiate(flow, sdk.admin_initiate_auth, {"UserPoolId": pool}, **parameters)


def srp():
    signing_in = AWSSRP(USER, PASSWORD, pool, web, client=sdk)
    return user(signing_in.authenticate_user)


def set_trigger():
    """Gives the pool a trigger for CUSTOM_AUTH, if the emulator has functions."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as it:
        it.writestr("trigger.py", CUSTOM_CHALLENGE)
    role = {"RoleName": "trigger", "AssumeRolePolicyDocument": json.dumps({"Statement": []})}
    try:
        made = service("lambda").create_function(
            FunctionName="define-auth-challenge",
            Runtime="python3.12",
            Handler="trigger.handler",
            Role=service("iam").create_role(**role)["Role"]["Arn"],
            Code={"ZipFile": archive.getvalue()},
        )
        triggers = {"DefineAuthChallenge": made["FunctionArn"]}
        sdk.update_user_pool(UserPoolId=pool, LambdaConfig=triggers)
    except Exception:
        # An emulator without functions answers with HTML, or not in the protocol of the service.
        return False
    return True


def derived():
    answer = unsigned.get_derived_token(
        ClientId=ID,
        ClientSecret=SECRET,
        SubjectToken=found["tokens"]["`USER_PASSWORD_AUTH`"],
        SubjectTokenType="ACCESS_TOKEN",
        RequestedTokenType="ACCESS_TOKEN",
    )
    return answer["IssuedToken"]


def machine_token():
    answer = unsigned.get_client_token(ClientId=ID, Secret=SECRET)
    return answer["ClientAuthenticationResult"]["AccessToken"]


password = {"USERNAME": USER, "PASSWORD": PASSWORD}
preferred = {"PREFERRED_CHALLENGE": "PASSWORD"}
way("`USER_PASSWORD_AUTH`", lambda: initiate("USER_PASSWORD_AUTH", **password))
way("`ADMIN_USER_PASSWORD_AUTH`", lambda: admin("ADMIN_USER_PASSWORD_AUTH", **password))
way("`USER_SRP_AUTH`", srp)
way("`USER_AUTH` with a password", lambda: initiate("USER_AUTH", **password, **preferred))
found["trigger"] = set_trigger()
way("`CUSTOM_AUTH`", lambda: initiate("CUSTOM_AUTH", USERNAME=USER))
way("`REFRESH_TOKEN_AUTH`", lambda: initiate("REFRESH_TOKEN_AUTH", REFRESH_TOKEN=found["refresh"]))
way(
    "`GetTokensFromRefreshToken`",
    lambda: user(sdk.get_tokens_from_refresh_token, ClientId=web, RefreshToken=found["refresh"]),
)
way("`GetDerivedToken`", derived)
way("`GetClientToken`", machine_token)

# ---- The endpoints of the domain ---------------------------------------------------------------


class Form(html.parser.HTMLParser):
    """The form of a page: where it is sent to, and its fields."""

    def __init__(self, text):
        super().__init__()
        self.action, self.fields = None, {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.action = attributes.get("action", "")
        elif tag in ("input", "button") and "name" in attributes:
            self.fields[attributes["name"]] = attributes.get("value") or ""


def endpoint(form, basic=False):
    auth = (ID, SECRET) if basic else None
    answer = requests.post(f"{ORIGIN}/oauth2/token", data=form, auth=auth, timeout=60)
    if answer.status_code != 200 or "access_token" not in answer.text:
        raise Answered(described(answer))
    return answer.json()


def sign_in(client_id, response_type, scope, **parameters):
    """Signs in on the pages that the emulator serves. Returns the parameters of the redirect."""
    session = requests.Session()
    query = {"response_type": response_type, "client_id": client_id, "scope": scope, "state": "s1"}
    query |= {"redirect_uri": CALLBACK, **parameters}
    url = f"{ORIGIN}/oauth2/authorize"
    answer = session.get(url, params=query, timeout=60, allow_redirects=False)
    own = {"username": USER, "password": PASSWORD, "challenge": "PASSWORD"}
    for _ in range(4):
        form = Form(answer.text)
        if answer.status_code != 200 or form.action is None:
            break
        fields = {name: own.get(name, value) for name, value in form.fields.items()}
        url = urllib.parse.urljoin(url, form.action)
        answer = session.post(url, data=fields, timeout=60, allow_redirects=False)
    location = answer.headers.get("Location", "")
    parts = urllib.parse.urlsplit(location)
    query, fragment = urllib.parse.parse_qs(parts.query), urllib.parse.parse_qs(parts.fragment)
    if not location.startswith(CALLBACK) or (query | fragment).get("state") != ["s1"]:
        raise Answered(described(answer))
    return query, fragment


def code_grant(client_id, scope):
    """With PKCE."""
    verifier = secrets.token_urlsafe(48)
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    pkce = {"code_challenge": challenge, "code_challenge_method": "S256"}
    query, _ = sign_in(client_id, "code", scope, **pkce)
    form = {"grant_type": "authorization_code", "code": query["code"][0], "code_verifier": verifier}
    return endpoint({**form, "client_id": client_id, "redirect_uri": CALLBACK})


def refreshed():
    token = code_grant(hosted, BOTH)["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": hosted}
    return endpoint(form)["access_token"]


def implicit():
    query, fragment = sign_in(hosted, "token", SCOPE)
    if "code" in query:
        raise Answered("302 with a code")
    return fragment["access_token"][0]


def credentials(basic, **scope):
    form = {"grant_type": "client_credentials", **scope}
    if not basic:
        form |= {"client_id": ID, "client_secret": SECRET}
    return endpoint(form, basic)["access_token"]


def other(grant, **form):
    form |= {"grant_type": f"urn:ietf:params:oauth:grant-type:{grant}"}
    return endpoint({**form, "client_id": ID, "client_secret": SECRET})["access_token"]


def exchange():
    kind = "urn:ietf:params:oauth:token-type:access_token"
    token = found["tokens"]["`USER_PASSWORD_AUTH`"]
    return other("token-exchange", subject_token=token, subject_token_type=kind)


BOTH = f"openid {SCOPE}"
way("authorization code, `openid`", lambda: code_grant(hosted, "openid")["access_token"])
way(f"authorization code, `{BOTH}`", lambda: code_grant(hosted, BOTH)["access_token"])
way("the same, choice-based sign-in", lambda: code_grant(choice, BOTH)["access_token"])
way("the same, refreshed", refreshed)
way("implicit grant", implicit)
way("client credentials, Basic", lambda: credentials(True))
way("client credentials, Basic, `scope`", lambda: credentials(True, scope=SCOPE))
way("client credentials, body", lambda: credentials(False))
way("client credentials, body, `scope`", lambda: credentials(False, scope=SCOPE))
way("token exchange", exchange)
# Cognito has no such grant.
way("device code", lambda: other("device_code", device_code="d1"))

found.pop("refresh", None)
print(json.dumps(found))
