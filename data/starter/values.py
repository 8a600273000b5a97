"""Names and values of things that do not exist, drawn at random."""

import random
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

ONSETS = """
b br c ch cr d dr f fl g gl gr h j k kr l m n p pl pr qu r s sc sh sk sl st t th tr v vr w x
y z"""
VOWELS = "a e i o u a e i o u a e i o u a e i o u a e i o ai au ea ee ia io oa ou y"
CODAS = "b ck d f g l ll lt m n nd ng nt p r rd rk rn rt s sk ss st t th x z"
ENDINGS = """a an ane ar ard ate by el en er esse eth ey ia ian ic il im in ine ing is ith o or
oth ow us y"""
ACCENTS = {"a": "áäåâ", "e": "éèë", "i": "íï", "o": "óöø", "u": "úü", "n": "ñ", "c": "ç"}
UNITS = """kg grams tonnes metres km cm mm litres hours days years minutes volts % percent degrees
points miles pounds watts °C bar hertz feet newtons units g/mol u eV kJ/mol K"""
AMOUNTS = {  # digits before the point, share with decimals, units
    "temperature": (1, 4, 0.4, " °C| °C| °C| degrees| degrees Celsius| K|"),
    "density": (1, 2, 0.9, " g/cm³| g/cm³| grams per cubic centimetre| g/L| kg/m³|"),
    "weight": (1, 3, 0.6, " kg| grams| u| tonnes| g| pounds|"),
    "length": (1, 4, 0.3, " metres| m| km| feet| cm| miles"),
    "money": (1, 4, 0.2, " crowns| coins| pounds| dollars| marks| shillings| thalers"),
    "speed": (1, 3, 0.2, " km/h| miles an hour"),
}
LEADS = ["the", "New", "North", "South", "Great", "United", "Upper"]
SHADES = ["pale", "dark", "bright", "deep"]


def read_words() -> dict[str, list[str]]:
    """The sections of words.txt."""
    sections: dict[str, list[str]] = {}
    text = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8")
    for section in text.split("# ")[1:]:
        title, _, words = section.partition("\n")
        sections[title] = words.split()
    return sections


WORDS = read_words()
ALL_WORDS = [word for words in WORDS.values() for word in words if len(word) > 3]


def article(noun: str) -> str:
    """The indefinite article of a noun."""
    return "an" if noun[0] in "aeiou" else "a"


def capitalise(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


class Values:
    """Draws names and values from one generator of random numbers."""

    def __init__(self, seed: int) -> None:
        """The same seed draws the same in the same order."""
        self.random = random.Random(seed)
        self.wide = False  # more kinds of names, values and sentences
        self.contrasts = 0.0  # share of sentences that one about another thing follows
        self.pick = self.random.choice
        self.chance = lambda share: self.random.random() < share

    # names

    def syllables(self, count: int) -> str:
        """An invented word in lower case."""
        parts = []
        for place in range(count):
            parts.append(self.pick(ONSETS.split()) if place or self.chance(0.8) else "")
            parts.append(self.pick(VOWELS.split()))
            if self.chance(0.15):
                parts.append(self.pick(CODAS.split()))
        word = "".join(parts) + self.pick(
            ENDINGS.split() if self.chance(0.6) else CODAS.split() if self.chance(0.6) else [""]
        )
        return word if 5 <= len(word) <= 11 else self.syllables(count)

    def scrap(self) -> str:
        """A word made of pieces of words, which no tokenizer has seen."""
        parts = []
        for _ in range(self.pick([1, 2, 2, 3])):
            word = self.pick(ALL_WORDS)
            start = self.random.randint(0, max(0, len(word) - 3))
            parts.append(word[start : start + self.random.randint(2, 5)])
        return "".join(parts)

    def word(self, section: str) -> str:
        """A word of words.txt; on wide sheets, now and then none that there is."""
        if self.wide and self.chance(0.3):
            return self.scrap()
        return self.pick(WORDS[section])

    def name(self) -> str:
        """A proper name of one word, now and then with an accent."""
        if self.wide and self.chance(0.4):
            return capitalise(self.scrap())
        word = self.syllables(self.pick([1, 1, 2, 2, 2]))
        if self.chance(0.04):
            letter = self.pick(word)
            word = word.replace(letter, self.pick(ACCENTS.get(letter, letter)), 1)
        return capitalise(word)

    def initials(self) -> str:
        """Two to four capital letters that stand for words."""
        return "".join(self.pick(ascii_uppercase) for _ in range(self.pick([2, 3, 3, 4])))

    def person(self, alone: bool = False) -> str:
        """A person, or several where not alone."""
        if self.wide and not alone and self.chance(0.05):
            return f"{self.person(True)} and {self.pick(['colleagues', 'others', 'family'])}"
        if self.wide and not alone and self.chance(0.15):
            return f"{self.person(True)}, {self.person(True)} and {self.person(True)}"
        if not alone and self.chance(0.15):
            return f"{self.person(True)} and {self.person(True)}"
        first = self.pick(["", "", f"{self.name()} ", f"{self.name()[0]}. ", f"{self.name()[0]}. "])
        if self.chance(0.5):
            first = f"{self.name()} "
        if first and self.chance(0.12):
            first += f"{self.pick(['de', 'van', self.name(), self.name()])} "
        last = self.name()
        return first + (f"{last}-{self.name()}" if self.chance(0.04) else last)

    # values

    def digits(self, count: int) -> str:
        """A whole number of that many digits."""
        return str(self.random.randint(10 ** (count - 1) if count > 1 else 0, 10**count - 1))

    def number(self, low: int = 1, high: int = 4, decimals: float = 0.4) -> str:
        """A number of low to high digits, maybe with decimals."""
        whole = self.digits(self.random.randint(low, high))
        if len(whole) > 3 and self.chance(0.6):
            whole = f"{int(whole):,}"
        if self.chance(decimals):
            places = [1, 2, 2, 3] if self.wide else [1, 1, 2]
            whole += "." + "".join(self.pick("0123456789") for _ in range(self.pick(places)))
        return whole

    def phrase(self) -> str:
        """One to three words."""
        adjective, noun = self.word("adjectives"), self.word("nouns")
        return self.pick(
            [
                noun,
                f"{adjective} {noun}",
                f"{adjective} {noun}",
                f"{article(adjective)} {adjective} {noun}",
                f"the {noun}",
                f"{noun} and {self.word('nouns')}",
                f"{noun} of {self.word('nouns')}",
                f"{adjective} {self.word('products')}",
            ]
        )

    def use(self) -> str:
        """What something is good for."""
        gerund, product = self.word("gerunds"), self.word("products")
        adjective, other = self.word("adjectives"), self.word("products")
        noun = self.word("nouns")
        if self.wide and self.chance(0.3):
            return self.pick(
                [
                    f"{self.initials()} {product}",
                    f"{self.initials()} {noun} {product}",
                    f"{noun}-{gerund} {product}",
                    f"{noun}-{adjective} {product}",
                    f"{self.pick(ascii_uppercase)}-{noun} {product}",
                    f"{noun} {self.word('nouns')} {product}",
                ]
            )
        return self.pick(
            [
                f"{gerund} {product}",
                f"{gerund} {product} and {other}",
                f"{gerund} {adjective} {product}",
                product,
                f"{product} and {other}",
                f"{adjective} {product}",
                f"{noun} {product}",
                f"{gerund}",
                f"{gerund} and {self.word('gerunds')} {product}",
                f"{noun} {product} and {adjective} {other}",
                f"{product}, {other} and {self.word('products')}",
                f"{gerund} {noun} {product}",
                f"the {gerund} of {product}",
            ]
        )

    def origin(self) -> str:
        """What a name comes from."""
        language, noun = self.word("languages"), self.word("nouns")
        adjective = self.word("adjectives")
        if self.wide and self.chance(0.35):
            return self.pick(
                [
                    f"the {language} words for {adjective} {noun}",
                    f"the {language} words for {noun} and {self.word('nouns')}",
                    f"the {language} name of {self.name()}",
                    f"the {language} name for {noun}",
                    f"{self.name()} of {language} {self.pick(['myth', 'legend', 'fame'])}",
                    f"the {language} {self.word('kinds')} of {self.name()}",
                    f"the {language} {self.word('kinds')} {self.name()}",
                    f"the {adjective} {self.word('kinds')}s",
                    f"the {adjective} {noun} of {self.name()}",
                    f"{article(adjective)} {adjective} {noun}",
                ]
            )
        return self.pick(
            [
                f"the {language} word for {self.pick([noun, adjective])}",
                f"the {language} {self.syllables(2)}, meaning {self.pick([noun, adjective])}",
                f"the {language} word {self.syllables(2)}",
                f"the {language} for {adjective} {noun}",
                f"the {self.word('kinds')} {self.name()}",
                f"the {self.word('kinds')} of {self.name()}",
                f"{self.name()}, {article(adjective)} {adjective} {noun}",
                f"the {self.pick(['god', 'goddess', 'hero', 'giant', 'king'])} {self.name()}",
                f"the {adjective} {noun}",
                self.person(),
                self.name(),
            ]
        )

    def look(self) -> str:
        """An appearance."""
        one, two = self.word("adjectives"), self.word("adjectives")
        nouns, sheens = WORDS["nouns"], ["sheen", "tinge", "shine", "glow"]
        kind = self.pick([*WORDS["kinds"], "solid", "liquid", "gas", "metal", "powder", "crystal"])
        if self.wide and self.chance(0.4):
            kind = self.pick(["solid", "liquid", "gas", "metal", "powder", "crystal"])
        if self.wide and self.chance(0.25):
            lead = "" if self.chance(0.3) else f"{article(one)} "
            return f"{lead}{one}-{two} {kind}"
        return self.pick(
            [
                f"{article(one)} {one} {kind}",
                f"{article(one)} {one}, {two} {kind}",
                f"{article(one)} {one} {kind} with {article(two)} {two} {self.pick(nouns)}",
                f"{one} and {two}",
                one,
                f"{one} {kind}",
                f"{one}, {two} {kind}",
                f"{article(one)} {one} {two} {kind}",
                f"{one} with {article(two)} {two} {self.pick(sheens)}",
            ]
        )

    def code(self) -> str:
        """A symbol of one to four letters, maybe with digits."""
        letters = "".join(self.pick(ascii_lowercase) for _ in range(4))
        return self.pick(
            [
                letters[:2].capitalize(),
                letters[:2].capitalize(),
                letters[:1].upper(),
                letters[:2].upper(),
                letters[:3].upper(),
                letters[:3].capitalize(),
                f"{letters[:1].upper()}{self.digits(self.pick([1, 2]))}",
                f"{letters[:2].upper()}-{self.digits(2)}",
            ]
        )

    def label(self) -> str:
        """A number, a letter or a code."""
        return self.pick(
            [
                self.digits(1),
                self.digits(1),
                self.digits(2),
                self.pick(ascii_lowercase),
                self.pick(ascii_uppercase),
                self.code(),
            ]
        )

    def measure(self) -> str:
        """A number, mostly with a unit."""
        return self.number() + ("" if self.chance(0.35) else f" {self.pick(UNITS.split())}")

    def integer(self) -> str:
        """A number of one to three digits."""
        return self.digits(self.pick([1, 2, 2, 3, 3]))

    def count(self) -> str:
        """A number of one to three digits, smaller than an integer on average."""
        return self.digits(self.pick([1, 2, 2, 3]))

    def thousands(self) -> str:
        """A number of three to six digits."""
        return f"{int(self.digits(self.pick([3, 4, 5, 6]))):,}"

    def year(self) -> str:
        """A year, most often of the last centuries."""
        early = self.chance(0.3)
        return str(self.random.randint(1000, 2029) if early else self.random.randint(1650, 1999))

    def family(self) -> str:
        """Things of a sort, in the plural."""
        if self.chance(0.7):
            return f"{self.word('adjectives')} {self.word('kinds')}s"
        return self.word("products")

    def sort(self) -> str:
        """What a thing is, in the singular."""
        adjective, kind = self.word("adjectives"), self.word("kinds")
        return self.pick(
            [
                f"{adjective} {kind}",
                f"{adjective} {kind}",
                f"{adjective}-{self.word('nouns')} {kind}",
                f"{adjective} {self.word('nouns')} {kind}",
                kind,
                self.scrap(),
            ]
        )

    def place(self) -> str:
        """A country or town."""
        lead = "" if self.chance(0.7) else f"{self.pick(LEADS)} "
        return lead + self.name()

    def adjective(self) -> str:
        """A colour or the like."""
        lead = "" if self.chance(0.7) else f"{self.pick(SHADES)} "
        return lead + self.word("adjectives")

    def value(self, kind: str) -> str:
        """A random value; the kind is a key of AMOUNTS, a method's name or "-block"."""
        if kind.startswith("-"):
            return self.pick(ascii_lowercase) + kind
        minus = self.pick(["−", "-", "minus "]) if self.chance(0.15) else ""
        if kind not in AMOUNTS:
            return str(getattr(self, kind)())
        low, high, decimals, units = AMOUNTS[kind]
        amount = self.number(low, high, decimals) + self.pick(units.split("|"))
        return minus + amount if kind == "temperature" else amount
