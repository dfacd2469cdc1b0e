import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from packages.database.encryption import (
    Cipher,
    DecryptionError,
    FieldRef,
    KeyFormatError,
    StoredForm,
    UnencodableTextError,
    UnreadableReason,
    stored_form,
)

KEY = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
OTHER_KEY = "ff" * 32
IV = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
RANDOM_IV = "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf"
CIPHER = Cipher(KEY, IV)
HERE = FieldRef("connections", "65f0c0ffee65f0c0ffee0001", "secrets.api_key")
ONE_MEGABYTE = "0123456789abcdef" * 65_536

# printf %s "$TEXT" | openssl enc -aes-256-$MODE -K $KEY -iv $IV | xxd -p -c 0
# with MODE cbc and IV for v1, cbc and RANDOM_IV for v2, ctr and RANDOM_IV for v3.
OPENSSL_VECTORS = [
    ("", "edaf9e57d045ac857f023f9dc238b14e"),
    ("user:pass", "0f7d794f436bee3939dd837371b8d8af"),
    ("sixteen letters!", "5621111eb9b68cca22492d552295f53138d52293e9ff25743b9af782107ceeea"),
    ("Grüße, 日本 🗝", "20db48bdb356a32c65f7165d47dfecaff55790e4bf2b3cde49bebd48c8466742"),
    ("", f"{RANDOM_IV}:600d07a3b9b2c4e4082153d6d1707aa6"),
    ("user:pass", f"{RANDOM_IV}:af54cfd9945d5f4f2eeaf489004ff6a8"),
    (
        "sixteen letters!",
        f"{RANDOM_IV}:2a636974b565ad575267a0ec24dac66e16a993830b877204be13a019f778f651",
    ),
    (
        "Grüße, 日本 🗝",
        f"{RANDOM_IV}:40612f0e62695649c55e2a19c86516b9ca84d758150fcb026ce9716103a7c00a",
    ),
    ("", f"v3:{RANDOM_IV}:"),
    ("user:pass", f"v3:{RANDOM_IV}:a9ec648f4cc81d7e7c"),
    ("sixteen letters!", f"v3:{RANDOM_IV}:aff6798913dd122d632e9cf16e799fc1"),
    ("Grüße, 日本 🗝", f"v3:{RANDOM_IV}:9bedc241b52719212fad7f20ed9740c0114e7c8c"),
]

# Written by `seal` when the form was introduced: what is stored must stay readable.
SEALED_AT_INTRODUCTION = (
    "gcm:76dee182:347c589a63d253fd7640680a:3d61e3b9faf6011165f66093497e6125981421a3b25f855f12"
)

# A published sample of a stored server document. Its key is not known.
PUBLISHED_SAMPLE = (
    "51d082dd191f6dcf7dfdd60bc318f53e:5a052bb48fef0635329562541e62f6cc"
    "9e866d1c9303af4b36bae0ae3662eceac0265872b4e92b9469a459c44055091d"
)

any_text = st.text()  # all of Unicode but surrogates


@pytest.mark.requirement("R-301")
@given(any_text)
def test_any_text_survives_the_fixed_iv_form(text: str) -> None:
    stored = CIPHER.encrypt_fixed_iv(text)

    assert stored_form(stored) is StoredForm.V1
    assert CIPHER.decrypt(stored, HERE) == text


@pytest.mark.requirement("R-302")
@given(any_text)
def test_any_text_survives_the_shared_form(text: str) -> None:
    stored = CIPHER.encrypt_shared(text)

    assert stored_form(stored) is StoredForm.V2
    assert CIPHER.decrypt(stored, HERE) == text


@given(any_text)
def test_any_text_survives_sealing(text: str) -> None:
    stored = CIPHER.seal(text, HERE)

    assert stored_form(stored) is StoredForm.GCM
    assert CIPHER.unseal(stored, HERE) == text
    assert CIPHER.decrypt(stored, HERE) == text


@pytest.mark.requirement("R-301")
@pytest.mark.parametrize("text", ["", "🗝️👩‍👩‍👧", "\x00", ONE_MEGABYTE], ids=len)
def test_empty_emoji_and_a_megabyte_survive_every_written_form(text: str) -> None:
    assert CIPHER.decrypt(CIPHER.encrypt_fixed_iv(text), HERE) == text
    assert CIPHER.decrypt(CIPHER.encrypt_shared(text), HERE) == text
    assert CIPHER.unseal(CIPHER.seal(text, HERE), HERE) == text


@pytest.mark.requirement("R-301")
@pytest.mark.parametrize(("text", "stored"), OPENSSL_VECTORS)
def test_what_openssl_encrypted_is_read(text: str, stored: str) -> None:
    assert CIPHER.decrypt(stored, HERE) == text


@pytest.mark.parametrize(("text", "stored"), OPENSSL_VECTORS[:4])
def test_the_fixed_iv_form_is_what_openssl_writes(text: str, stored: str) -> None:
    assert CIPHER.encrypt_fixed_iv(text) == stored


def test_upper_case_hexadecimal_is_read() -> None:
    assert CIPHER.decrypt("0F7D794F436BEE3939DD837371B8D8AF", HERE) == "user:pass"


def test_a_value_sealed_by_the_first_release_is_read() -> None:
    assert CIPHER.unseal(SEALED_AT_INTRODUCTION, HERE) == "user:pass"


@pytest.mark.requirement("R-302")
def test_the_same_text_is_stored_differently_each_time() -> None:
    stored = {CIPHER.encrypt_shared("secret") for _ in range(50)}
    sealed = {CIPHER.seal("secret", HERE) for _ in range(50)}

    assert len(stored) == 50
    assert len(sealed) == 50


@pytest.mark.parametrize(
    "text",
    [
        "user:pass",
        "aa" * 16 + ":" + "bb" * 16,
        "v3:" + "aa" * 16 + ":bb",
        "ab" * 16,
        PUBLISHED_SAMPLE,
        CIPHER.encrypt_shared("twice"),
        CIPHER.seal("twice", HERE),
    ],
    ids=["userpass", "like-v2", "like-v3", "like-v1", "published", "stored", "sealed"],
)
def test_a_plaintext_that_looks_stored_is_still_encrypted(text: str) -> None:
    shared, fixed, sealed = (
        CIPHER.encrypt_shared(text),
        CIPHER.encrypt_fixed_iv(text),
        CIPHER.seal(text, HERE),
    )

    assert text not in {shared, fixed, sealed}
    assert CIPHER.decrypt(shared, HERE) == text
    assert CIPHER.decrypt(fixed, HERE) == text
    assert CIPHER.unseal(sealed, HERE) == text


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (PUBLISHED_SAMPLE, StoredForm.V2),
        ("ab" * 16, StoredForm.V1),
        (f"v3:{RANDOM_IV}:", StoredForm.V3),
        (SEALED_AT_INTRODUCTION, StoredForm.GCM),
        ("", None),
        ("user:pass", None),
        ("sk-live-0123456789", None),
        ("ab" * 15, None),
        ("ab" * 16 + "\n", None),
        ("ab" * 16 + ":", None),
        ("ab" * 15 + ":" + "ab" * 16, None),
        ("ab" * 16 + ":" + "ab" * 17, None),
        ("v3:" + "ab" * 16 + ":abc", None),
        ("v4:" + "ab" * 16 + ":" + "ab" * 16, None),
        ("gcm:0123abcd:" + "ab" * 12 + ":" + "ab" * 15, None),
    ],
)
def test_stored_forms_are_recognised_strictly(value: str, form: StoredForm | None) -> None:
    assert stored_form(value) is form


@given(any_text)
def test_recognising_a_form_never_fails(text: str) -> None:
    assert stored_form(text) in {None, *StoredForm}


@pytest.mark.requirement("R-303")
@given(text=any_text, data=st.data())
def test_any_change_to_a_sealed_value_is_detected(text: str, data: st.DataObject) -> None:
    stored = CIPHER.seal(text, HERE)
    position = data.draw(st.integers(0, len(stored) - 1))
    letter = data.draw(st.characters(codec="utf-8").filter(lambda it: it != stored[position]))
    changed = stored[:position] + letter + stored[position + 1 :]

    with pytest.raises(DecryptionError):
        CIPHER.unseal(changed, HERE)


@pytest.mark.requirement("R-303")
@given(text=any_text, data=st.data())
def test_a_cut_or_lengthened_sealed_value_is_detected(text: str, data: st.DataObject) -> None:
    stored = CIPHER.seal(text, HERE)
    cut = stored[: data.draw(st.integers(0, len(stored) - 1))]

    with pytest.raises(DecryptionError):
        CIPHER.unseal(cut, HERE)
    with pytest.raises(DecryptionError):
        CIPHER.unseal(stored + "00", HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [
        FieldRef("tokens", HERE.document_id, HERE.field),
        FieldRef(HERE.collection, "65f0c0ffee65f0c0ffee0002", HERE.field),
        FieldRef(HERE.collection, HERE.document_id, "secrets.password"),
    ],
)
@pytest.mark.requirement("R-303")
def test_a_sealed_value_moved_elsewhere_is_refused(elsewhere: FieldRef) -> None:
    stored = CIPHER.seal("secret", HERE)

    with pytest.raises(DecryptionError):
        CIPHER.unseal(stored, elsewhere)
    with pytest.raises(DecryptionError):
        CIPHER.decrypt(stored, elsewhere)


@pytest.mark.parametrize(("collection", "document_id"), [("a/b", "c"), ("a", "b/c")])
def test_a_place_that_could_be_read_in_two_ways_is_refused(
    collection: str, document_id: str
) -> None:
    with pytest.raises(ValueError, match="slash"):
        FieldRef(collection, document_id, "field")


@given(text=any_text, data=st.data())
def test_a_changed_shared_value_is_refused_or_becomes_other_text(
    text: str, data: st.DataObject
) -> None:
    """CBC has no integrity: all that can be promised is that a change is not overlooked."""
    stored = CIPHER.encrypt_shared(text)
    position = data.draw(st.integers(0, len(stored) - 1))
    letter = data.draw(
        st.sampled_from("0123456789abcdef").filter(lambda it: it != stored[position])
    )
    changed = stored[:position] + letter + stored[position + 1 :]

    assert _read(CIPHER, changed) != text


@given(text=any_text, data=st.data())
def test_a_changed_fixed_iv_value_is_refused_or_becomes_other_text(
    text: str, data: st.DataObject
) -> None:
    stored = CIPHER.encrypt_fixed_iv(text)
    position = data.draw(st.integers(0, len(stored) - 1))
    letter = data.draw(
        st.sampled_from("0123456789abcdef").filter(lambda it: it != stored[position])
    )
    changed = stored[:position] + letter + stored[position + 1 :]

    assert _read(CIPHER, changed) != text


@pytest.mark.requirement("R-303")
@pytest.mark.parametrize(
    "stored",
    [
        # The last block changed: the padding shows it.
        f"{RANDOM_IV}:af54cfd9945d5f4f2eeaf489004ff6a9",
        "0f7d794f436bee3939dd837371b8d8ae",
        # The first byte of the IV changed: the text is no longer UTF-8.
        f"20{RANDOM_IV[2:]}:af54cfd9945d5f4f2eeaf489004ff6a8",
        f"v3:{RANDOM_IV}:29ec648f4cc81d7e7c",
    ],
)
def test_damage_that_shows_is_refused(stored: str) -> None:
    with pytest.raises(DecryptionError) as caught:
        CIPHER.decrypt(stored, HERE)

    assert caught.value.reason is UnreadableReason.UNREADABLE


@pytest.mark.requirement("E-13")
@given(any_text)
def test_values_of_another_key_are_refused(text: str) -> None:
    stranger = Cipher(OTHER_KEY, IV)

    assert _read(stranger, CIPHER.encrypt_shared(text)) is None
    assert _read(stranger, CIPHER.encrypt_fixed_iv(text)) is None
    assert _read(stranger, CIPHER.seal(text, HERE)) is None


def test_a_sealed_value_of_an_unknown_key_says_so() -> None:
    stored = Cipher(OTHER_KEY, IV).seal("secret", HERE)

    with pytest.raises(DecryptionError) as caught:
        CIPHER.unseal(stored, HERE)

    assert caught.value.reason is UnreadableReason.UNKNOWN_KEY


@pytest.mark.parametrize("value", ["user:pass", "", "sk-live-0123456789", "ab" * 15])
def test_a_plaintext_found_in_place_of_a_ciphertext_is_refused(value: str) -> None:
    with pytest.raises(DecryptionError) as caught:
        CIPHER.decrypt(value, HERE)

    assert caught.value.reason is UnreadableReason.UNKNOWN_FORM


def test_only_sealed_values_are_unsealed() -> None:
    with pytest.raises(DecryptionError) as caught:
        CIPHER.unseal(CIPHER.encrypt_shared("secret"), HERE)

    assert caught.value.reason is UnreadableReason.NOT_SEALED


@pytest.mark.requirement("R-305")
@given(any_text)
def test_earlier_keys_are_read_and_never_written_with(text: str) -> None:
    old, new = Cipher(OTHER_KEY, IV), Cipher(KEY, IV, previous_keys=[OTHER_KEY])

    for stored in (old.encrypt_shared(text), old.encrypt_fixed_iv(text), old.seal(text, HERE)):
        assert new.decrypt(stored, HERE) == text
    assert CIPHER.decrypt(new.encrypt_shared(text), HERE) == text
    assert CIPHER.decrypt(new.encrypt_fixed_iv(text), HERE) == text
    assert CIPHER.unseal(new.seal(text, HERE), HERE) == text
    assert new.key_id == CIPHER.key_id != old.key_id


@pytest.mark.requirement("R-305")
def test_a_reading_says_which_key_opened_the_value() -> None:
    old, both = Cipher(OTHER_KEY, IV), Cipher(KEY, IV, previous_keys=[OTHER_KEY, KEY])
    written = {
        cipher.key_id: [
            cipher.encrypt_shared("text"),
            cipher.encrypt_fixed_iv("text"),
            cipher.seal("text", HERE),
        ]
        for cipher in (CIPHER, old)
    }

    readings = {key: [both.readings(value, HERE) for value in of] for key, of in written.items()}

    assert both.key_ids == (CIPHER.key_id, old.key_id)
    assert readings == {key: [{key: "text"}] * 3 for key in both.key_ids}


@pytest.mark.requirement("R-305")
@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        ("clear text", UnreadableReason.UNKNOWN_FORM),
        (PUBLISHED_SAMPLE, UnreadableReason.UNREADABLE),
        ("gcm:00000000:" + "0" * 24 + ":" + "0" * 32, UnreadableReason.UNKNOWN_KEY),
        (SEALED_AT_INTRODUCTION[:-1] + "3", UnreadableReason.UNREADABLE),
    ],
)
def test_a_value_that_no_key_opens_has_no_reading(stored: str, reason: UnreadableReason) -> None:
    with pytest.raises(DecryptionError) as caught:
        Cipher(KEY, IV, previous_keys=[OTHER_KEY]).readings(stored, HERE)

    assert caught.value.reason is reason


def test_a_value_may_have_a_reading_under_each_key() -> None:
    both = Cipher(KEY, IV, previous_keys=[OTHER_KEY])
    stored = (f"v3:{number:032x}:61" for number in range(1000))

    two = next(found for value in stored if len(found := _readings(both, value)) == len("ab"))

    assert two.keys() == set(both.key_ids)


def _readings(cipher: Cipher, stored: str) -> dict[str, str]:
    try:
        return cipher.readings(stored, HERE)
    except DecryptionError:
        return {}


@pytest.mark.requirement("R-306")
def test_errors_name_the_place_and_neither_value_nor_key() -> None:
    stored = CIPHER.encrypt_shared("correct horse battery staple")

    with pytest.raises(DecryptionError) as caught:
        Cipher(OTHER_KEY, IV).decrypt(stored, HERE)

    assert str(caught.value) == (
        "Cannot decrypt secrets.api_key of document 65f0c0ffee65f0c0ffee0001 in connections: "
        "CREDS_KEY is not the right key, or the value is damaged."
    )
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.requirement("R-300")
@pytest.mark.parametrize("key", ["", "00", KEY[:-1], KEY + "0", KEY[:-1] + "g", KEY + "\n"])
def test_a_key_of_another_shape_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(KeyFormatError) as caught:
        Cipher(key, IV)

    assert str(caught.value) == "CREDS_KEY: must be 64 hexadecimal characters (32 bytes)"


@pytest.mark.requirement("R-300")
def test_an_iv_or_earlier_key_of_another_shape_is_refused() -> None:
    with pytest.raises(KeyFormatError, match="CREDS_IV: must be 32 hexadecimal"):
        Cipher(KEY, KEY)
    with pytest.raises(KeyFormatError, match="previous CREDS_KEY: must be 64 hexadecimal"):
        Cipher(KEY, IV, previous_keys=[IV])


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UnencodableTextError):
        CIPHER.encrypt_shared("a\ud83d")


def test_derived_keys_are_those_of_openssl() -> None:
    """The command that made the value.

    openssl kdf -keylen 32 -kdfopt digest:SHA256 -kdfopt hexkey:$KEY
    -kdfopt info:mcp-gateway-registry/gateway-sessions HKDF
    """
    [derived] = CIPHER.derive_keys("gateway-sessions").values()

    assert derived.hex() == "eed3b22c288594f91f0fa0ef6c5da98b53fc60a5d355d0c55caeb81ec60cc5fb"


def test_each_key_derives_its_own() -> None:
    both = Cipher(KEY, IV, previous_keys=[OTHER_KEY])

    derived = list(both.derive_keys("sessions").items())

    alone = [cipher.derive_keys("sessions") for cipher in (CIPHER, Cipher(OTHER_KEY, IV))]
    assert derived == [item for found in alone for item in found.items()]


@given(any_text, any_text)
def test_each_purpose_has_its_own_key(purpose: str, other: str) -> None:
    assume(purpose != other)

    [derived], [others] = [CIPHER.derive_keys(one).values() for one in (purpose, other)]
    assert derived != others
    assert len(derived) == 32


def test_nothing_of_a_cipher_is_shown() -> None:
    assert not re.search(f"{KEY}|{IV}", repr(CIPHER))


def _read(cipher: Cipher, stored: str) -> str | None:
    try:
        return cipher.decrypt(stored, HERE)
    except DecryptionError:
        return None
