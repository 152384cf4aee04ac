"""What clients are told of encryption and credentials."""

import re
import ssl

import pytest
import trustme

from gate.errors import GateError
from gate.kafka.access import access, described

SASL = {
    "GATE_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "GATE_SASL_MECHANISM": "SCRAM-SHA-256",
    "GATE_SASL_USERNAME": "gate",
    "GATE_SASL_PASSWORD": "secret",
}


def test_nothing_set_is_plain_text():
    assert access("a:1", {}) == {"bootstrap_servers": "a:1", "security_protocol": "PLAINTEXT"}
    assert described({}) == "PLAINTEXT"


@pytest.mark.fast_path
def test_credentials_are_handed_on_and_not_told():
    assert access("a:1", SASL) == {
        "bootstrap_servers": "a:1",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "gate",
        "sasl_plain_password": "secret",
    }
    assert described(SASL) == "SASL_PLAINTEXT as user gate"


TOKENS = {
    "GATE_SECURITY_PROTOCOL": "SASL_SSL",
    "GATE_SASL_MECHANISM": "OAUTHBEARER",
    "GATE_OAUTH_TOKEN_URL": "https://issuer.example/token?tenant=1",
    "GATE_OAUTH_CLIENT_ID": "gate",
    "GATE_OAUTH_CLIENT_SECRET": "secret",
}


@pytest.mark.fast_path
def test_all_clients_of_a_process_share_one_token():
    first, second = (access("a:1", dict(TOKENS))["sasl_oauth_token_provider"] for _ in range(2))
    assert first is second
    assert access("a:1", TOKENS | {"GATE_OAUTH_SCOPE": "x"})["sasl_oauth_token_provider"] is not first
    assert str(first) == "client gate at https://issuer.example/token"
    assert described(TOKENS) == "SASL_SSL with a token of client gate"
    assert "secret" not in repr(first._source)


@pytest.mark.fast_path
def test_extensions_are_shown_beside_the_token():
    environment = TOKENS | {"GATE_OAUTH_EXTENSIONS": "logicalCluster=lkc-1, identityPoolId=pool-2"}
    shown = access("a:1", environment)["sasl_oauth_token_provider"].extensions()
    assert shown == {"logicalCluster": "lkc-1", "identityPoolId": "pool-2"}


def test_brokers_are_known_by_their_authority_and_host_name(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("gate@example.com")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    files = {"GATE_SSL_CAFILE": str(tmp_path / "ca.pem"), "GATE_SSL_CERTFILE": str(tmp_path / "client.pem")}
    context = access("a:1", {"GATE_SECURITY_PROTOCOL": "SSL", **files})["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    assert access("a:1", {"GATE_SECURITY_PROTOCOL": "SSL"})["ssl_context"].get_ca_certs()  # the system's


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"GATE_SECURITY_PROTOCOL": "TLS"}, "GATE_SECURITY_PROTOCOL=TLS is not known"),
        (SASL | {"GATE_SASL_MECHANISM": "GSSAPI"}, "GATE_SASL_MECHANISM=GSSAPI is not known"),
        (SASL | {"GATE_SASL_PASSWORD": ""}, "GATE_SECURITY_PROTOCOL=SASL_PLAINTEXT needs GATE_SASL_PASSWORD"),
        (SASL | {"GATE_SECURITY_PROTOCOL": ""}, "GATE_SASL_MECHANISM is set, but not used"),
        (TOKENS | {"GATE_OAUTH_CLIENT_ID": ""}, "GATE_SASL_MECHANISM=OAUTHBEARER needs GATE_OAUTH_CLIENT_ID"),
        (TOKENS | {"GATE_OAUTH_TOKEN_URL": "issuer/x"}, "GATE_OAUTH_TOKEN_URL is not an http(s) URL"),
        (TOKENS | {"GATE_OAUTH_TOKEN_URL": "http://[x/"}, "GATE_OAUTH_TOKEN_URL is not an http(s) URL"),
        (
            TOKENS | {"GATE_OAUTH_CLIENT_SECRET": "@/none"},
            "GATE_OAUTH_CLIENT_SECRET=@/none can't be read: No such file",
        ),
        (TOKENS | {"GATE_OAUTH_CLIENT_SECRET": "@/dev/null"}, "GATE_OAUTH_CLIENT_SECRET=@/dev/null is empty"),
        (TOKENS | {"GATE_OAUTH_CAFILE": "/none.pem"}, "GATE_OAUTH_CAFILE=/none.pem can't be used"),
        (TOKENS | {"GATE_OAUTH_EXTENSIONS": "auth=x"}, "GATE_OAUTH_EXTENSIONS: 'auth=x' is not NAME=VALUE"),
        (TOKENS | {"GATE_SASL_PASSWORD": "secret"}, "GATE_SASL_PASSWORD is set, but not used with GATE_SASL_MECHANISM"),
        (TOKENS | {"GATE_OAUTH_PROVIDER": "msk"}, "GATE_OAUTH_TOKEN_URL is set, but not used with GATE_OAUTH_PROVIDER"),
        (SASL | {"GATE_OAUTH_SCOPE": "x"}, "GATE_OAUTH_SCOPE is set, but not used with GATE_SASL_MECHANISM=SCRAM"),
        ({"GATE_OAUTH_SCOPE": "x"}, "GATE_OAUTH_SCOPE is set, but not used with GATE_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"GATE_SSL_CAFILE": "ca.pem"}, "GATE_SSL_CAFILE is set, but not used with GATE_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"GATE_SECURITY_PROTOCOL": "SSL", "GATE_SSL_CAFILE": "/none.pem"}, "GATE_SSL_CAFILE=/none.pem can't be read"),
        ({"GATE_SECURITY_PROTOCOL": "SSL", "GATE_SSL_KEYFILE": __file__}, "is set without GATE_SSL_CERTFILE"),
        ({"GATE_SECURITY_PROTOCOL": "SSL", "GATE_SSL_CAFILE": __file__}, "the files of GATE_SSL_CAFILE do not fit"),
    ],
)
def test_what_makes_no_sense_is_told(environment, said):
    with pytest.raises(GateError, match=re.escape(said)) as told:
        access("a:1", environment)
    assert told.value.hint
    assert "secret" not in str(told.value) + str(told.value.hint)
