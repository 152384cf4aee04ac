"""Tokens for Amazon MSK's IAM access control, signed with whatever AWS credentials this process has."""

import os

from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

from gate.errors import GateError


def token() -> tuple[str, float]:
    """Return a token, and when it ends."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        raise GateError("neither AWS_REGION nor AWS_DEFAULT_REGION is set; set it to the region of the cluster")
    try:
        value, expires_ms = MSKAuthTokenProvider.generate_auth_token(region)
    except AttributeError as error:  # of None, which it takes for credentials
        text = (
            "AWS knows no credentials for this process; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give it a"
        )
        raise GateError(f"{text} profile or a role") from error
    return value, expires_ms / 1000
