#!/usr/bin/env python3
"""Calls the API as another system would: gets a token by the client credentials grant, then the items.

    CLIENT_ID=… CLIENT_SECRET=… TOKEN_ENDPOINT_URL=… API_URL=… python3 client.py

The token endpoint can be that of the quickstart or of a real user pool. A token is valid for an hour: a
client that calls often caches it and gets the next one when `expires_in` has passed.
"""

import os

import requests
from requests.auth import HTTPBasicAuth

TIMEOUT = 10


def access_token(url, client_id, client_secret, scope=None):
    """Returns a new access token. Without `scope`, it has all scopes of the client."""
    form = {"grant_type": "client_credentials"}
    if scope is not None:
        form["scope"] = scope
    auth = HTTPBasicAuth(client_id, client_secret)
    response = requests.post(url, data=form, auth=auth, timeout=TIMEOUT)
    response.raise_for_status()
    return response.json()["access_token"]


def main():
    token = access_token(
        os.environ["TOKEN_ENDPOINT_URL"], os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
    )
    headers = {"Authorization": f"Bearer {token}"}
    response = requests.get(os.environ["API_URL"], headers=headers, timeout=TIMEOUT)
    response.raise_for_status()
    print(response.json())


if __name__ == "__main__":
    main()
