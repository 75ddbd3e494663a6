"""Masking: nobody reads a password or a signature in a log, an artifact or a message."""

import pytest

from kfp_foundry.components.common.masking import mask, mask_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no connection to postgresql://ann:ge/heim@host/db: failed", "no connection to postgresql://***@host/db: failed"),
        ("postgresql://ann:se/cr@et@db:5432/shop", "postgresql://***@db:5432/shop"),
        ("http://token@host", "http://***@host"),
        ("http://host/a@b", "http://host/a@b"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("mail ann@host", "mail ann@host"),
    ],
)
def test_users_and_passwords_of_addresses_are_hidden(text, shown):
    assert mask(text) == shown


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:pw@host/t.csv?X-Amz-Signature=abc", "https://***@host/t.csv"),
        ('{"source": "https://host/t.csv?sig=abc", "target": "late"}', '{"source": "https://host/t.csv", "target": "late"}'),
        ("data/t?.csv", "data/t?.csv"),
    ],
)
def test_signatures_of_addresses_are_hidden(address, shown):
    assert mask_address(address) == shown
