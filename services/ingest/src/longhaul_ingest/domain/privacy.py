"""Personal data and secrets, replaced by marks: e-mail and IP addresses, telephone numbers, keys and passwords.

E-mail and IP addresses are found by datatrove's patterns, so that the same are replaced. Each pattern is searched for
only where a text holds a character or word without which it cannot match.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from longhaul_ingest.domain.refusal import Refusal

if TYPE_CHECKING:
    from longhaul_ingest.domain.features import Features

OCTET: Final = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
EMAIL: Final = re.compile(rf"\b{ATOM}(?:\.{ATOM})*@(?:(?:{HOST}\.)+{HOST}|\[(?:{OCTET}\.){{3}}{OCTET}\])")
IPV4: Final = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}")
PHONE: Final = re.compile(
    r"(?<![\w.+-])(?:\+[1-9][0-9]{0,2}[ .-]?(?:\(?[0-9]{1,4}\)?[ .-]?){2,4}[0-9]{2,4}"
    r"|\([0-9]{3}\) ?[0-9]{3}[ .-][0-9]{4}|[0-9]{3}[.-][0-9]{3}[.-][0-9]{4})(?![\w-])"
)
SECRET: Final = re.compile(
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[\s\S]{0,8192}?-----END (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{50,}\b|\bglpat-[A-Za-z0-9_-]{20,}\b"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}\b|\bAIza[0-9A-Za-z_-]{35}\b|\bsk_live_[0-9A-Za-z]{24,}\b|\bhf_[A-Za-z0-9]{30,}\b"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
)
SECRET_SIGNS: Final = (
    "PRIVATE KEY", "AKIA", "ASIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox", "AIza",
    "sk_live_", "hf_", "eyJ",
)  # fmt: skip
PHONE_DIGITS: Final = (7, 15)


@dataclass(frozen=True, slots=True)
class PersonalData:
    """Replaces personal data; an empty replacement leaves that kind in the text. Public IP addresses only."""

    name: ClassVar[str] = "pii"

    email: str = "email@example.com"
    ip: str = "22.214.171.124"
    phone: str = "<phone>"
    secret: str = "<secret>"  # noqa: S105  (what stands in its place)
    max_replacements: int | None = None

    def rewrite(self, text: Features) -> str:
        """The text with marks in place of personal data; how many of each kind is noted."""
        result, counts = self.replace(text.text)
        text.labels.setdefault("scores", {}).update({f"pii_{kind}": n for kind, n in counts.items() if n})
        return result

    def replace(self, text: str) -> tuple[str, dict[str, int]]:
        """The text with marks, and the replacements by kind."""
        counts = dict.fromkeys(("secret", "email", "ip", "phone"), 0)
        if self.secret and any(sign in text for sign in SECRET_SIGNS):
            text, counts["secret"] = SECRET.subn(lambda _: self.secret, text)
        if self.email and "@" in text:
            text, counts["email"] = EMAIL.subn(lambda _: self.email, text)
        if self.ip and "." in text:
            text, counts["ip"] = _replace_checked(IPV4, text, self.ip, _is_public)
        if self.phone:
            text, counts["phone"] = _replace_checked(PHONE, text, self.phone, _is_phone)
        return text, counts

    def refusals(self, text: Features) -> Iterator[Refusal]:
        """A document that is mostly an address book is refused where a maximum is given."""
        if self.max_replacements is not None:
            scores = text.labels.get("scores", {})
            found = sum(n for kind, n in scores.items() if kind.startswith("pii_"))
            if found > self.max_replacements:
                yield Refusal("max_replacements", found, self.max_replacements)


def _replace_checked(pattern: re.Pattern[str], text: str, mark: str, wanted: Callable[[str], bool]) -> tuple[str, int]:
    count = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal count
        if not wanted(match.group()):
            return match.group()
        count += 1
        return mark

    return pattern.sub(replaced, text), count


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def _is_phone(number: str) -> bool:
    least, most = PHONE_DIGITS
    return least <= sum(character.isdigit() for character in number) <= most
