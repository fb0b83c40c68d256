"""The exact values of `WWW-Authenticate`, for the scripts in this folder."""

REALM = 'Bearer realm="api"'
INVALID = f'{REALM}, error="invalid_token", error_description="The access token is invalid"'
EXPIRED = f'{REALM}, error="invalid_token", error_description="The access token expired"'
MALFORMED = (
    f'{REALM}, error="invalid_request", '
    'error_description="The Authorization header is malformed"'
)
# To be completed with the required scopes: `SCOPE.format("activity/*")`.
SCOPE = (
    f'{REALM}, error="insufficient_scope", '
    'error_description="A required scope is missing", scope="{}"'
)
# No other token would help, so there is no error code.
UNLISTED = REALM


def naming(challenge, scope):
    """The challenge for 401, if the scope table knows the scope."""
    return f'{challenge}, scope="{scope}"'
