#!/usr/bin/env python3
"""Runs nginx (`auth_request`) with the example `forward_auth` in front of a service: sends valid and
invalid requests, and checks the answers and the requests that reach the service."""
# ci: merge computes: the lines with FAIL say what was expected and what came; or apt-get install nginx
import forward_auth

forward_auth.run("nginx")
