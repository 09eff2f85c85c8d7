"""Tokens, passwords and private keys in a text, by their usual forms."""

import re

from huggingface_hub import get_token

PATTERNS = {
    "a token of the Hub": rb"\b(?:hf_|api_org_)[A-Za-z0-9]{30,}",
    "a key of AWS": rb"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40}",
    "a token of GitHub": rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})",
    "a key of OpenAI or Anthropic": rb"\bsk-[A-Za-z0-9_-]{32,}",
    "a key of Google": rb"\bAIza[A-Za-z0-9_-]{35}",
    "a token of Slack": rb"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a private key": rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
    "a line of .netrc": rb"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S+",
    "a password in an address": rb"[a-z][a-z0-9+.-]+://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@",
}
PATTERNS = {kind: re.compile(pattern) for kind, pattern in PATTERNS.items()}


def find_secret(content):
    """A description of the kind of secret in these bytes; None without one."""
    token = get_token()
    if token and token.encode() in content:
        return "your token of the Hub"
    return next((kind for kind, pattern in PATTERNS.items() if pattern.search(content)), None)
