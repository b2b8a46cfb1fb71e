"""ISO 639: languages by three letters and by name, with their codes of two letters.

Holds the languages that translation models name.
"""

from functools import cache

from antiphon.inputs.languages.names import CODES_BY_NAME

# ISO 639-3 (macrolanguages, and the member that models mean) and ISO 639-2/B: ISO 639-1.
_THREE = {
    "afr": "af", "aka": "ak", "als": "sq", "sqi": "sq", "alb": "sq", "amh": "am", "ara": "ar",
    "arb": "ar", "arg": "an", "asm": "as", "ast": "ast", "aym": "ay", "ayr": "ay", "aze": "az",
    "azj": "az", "bak": "ba", "bam": "bm", "bel": "be", "ben": "bn", "bod": "bo", "tib": "bo",
    "bos": "bs", "bre": "br", "bul": "bg", "cat": "ca", "ces": "cs", "cze": "cs", "cmn": "zh",
    "zho": "zh", "chi": "zh", "cor": "kw", "cos": "co", "cym": "cy", "wel": "cy", "dan": "da",
    "deu": "de", "ger": "de", "div": "dv", "dzo": "dz", "ekk": "et", "ell": "el", "gre": "el",
    "eng": "en", "epo": "eo", "est": "et", "eus": "eu", "baq": "eu", "ewe": "ee", "fao": "fo",
    "fas": "fa", "per": "fa", "pes": "fa", "fij": "fj", "fil": "tl", "fin": "fi", "fra": "fr",
    "fre": "fr", "fry": "fy", "ful": "ff", "fuv": "ff", "gaz": "om", "gla": "gd", "gle": "ga",
    "glg": "gl", "glv": "gv", "grn": "gn", "guj": "gu", "hat": "ht", "hau": "ha", "heb": "he",
    "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy", "arm": "hy", "ibo": "ig", "ido": "io",
    "ind": "id", "isl": "is", "ice": "is", "ita": "it", "jav": "jv", "jpn": "ja", "kan": "kn",
    "kat": "ka", "geo": "ka", "kas": "ks", "kaz": "kk", "khk": "mn", "khm": "km", "kik": "ki",
    "kin": "rw", "kir": "ky", "kmr": "ku", "kon": "kg", "kor": "ko", "kur": "ku", "lao": "lo",
    "lat": "la", "lav": "lv", "lim": "li", "lin": "ln", "lit": "lt", "ltz": "lb", "lug": "lg",
    "lvs": "lv", "mal": "ml", "mar": "mr", "mkd": "mk", "mac": "mk", "mlg": "mg", "mlt": "mt",
    "mon": "mn", "mri": "mi", "mao": "mi", "msa": "ms", "may": "ms", "mya": "my", "bur": "my",
    "nep": "ne", "npi": "ne", "nld": "nl", "dut": "nl", "nno": "nn", "nob": "no", "nor": "no",
    "nya": "ny", "oci": "oc", "ori": "or", "orm": "om", "ory": "or", "oss": "os", "pan": "pa",
    "pbt": "ps", "plt": "mg", "pol": "pl", "por": "pt", "pus": "ps", "que": "qu", "quy": "qu",
    "roh": "rm", "ron": "ro", "rum": "ro", "run": "rn", "rus": "ru", "sag": "sg", "san": "sa",
    "sin": "si", "slk": "sk", "slo": "sk", "slv": "sl", "smo": "sm", "sna": "sn", "snd": "sd",
    "som": "so", "sot": "st", "spa": "es", "srd": "sc", "srp": "sr", "ssw": "ss", "sun": "su",
    "swa": "sw", "swe": "sv", "swh": "sw", "tam": "ta", "tat": "tt", "tel": "te", "tgk": "tg",
    "tgl": "tl", "tha": "th", "tir": "ti", "ton": "to", "tsn": "tn", "tso": "ts", "tuk": "tk",
    "tur": "tr", "twi": "tw", "uig": "ug", "ukr": "uk", "urd": "ur", "uzb": "uz", "uzn": "uz",
    "ven": "ve", "vie": "vi", "wol": "wo", "xho": "xh", "ydd": "yi", "yid": "yi", "yor": "yo",
    "zsm": "ms", "zul": "zu",
}  # fmt: skip
# Replaced codes, and Whisper's own.
_OLD = {"iw": "he", "in": "id", "jw": "jv", "nb": "no", "ji": "yi", "mo": "ro"}
# English names that Whisper's table lacks.
_NAMES = {
    "chichewa": "ny", "dzongkha": "dz", "esperanto": "eo", "ewe": "ee", "fijian": "fj",
    "fula": "ff", "ganda": "lg", "guarani": "gn", "igbo": "ig", "irish": "ga", "kashmiri": "ks",
    "kikuyu": "ki", "kinyarwanda": "rw", "kurdish": "ku", "kyrgyz": "ky", "odia": "or",
    "oriya": "or", "oromo": "om", "quechua": "qu", "rundi": "rn", "samoan": "sm", "sango": "sg",
    "sardinian": "sc", "scottish gaelic": "gd", "sotho": "st", "swati": "ss", "tigrinya": "ti",
    "tsonga": "ts", "tswana": "tn", "twi": "tw", "uyghur": "ug", "wolof": "wo", "xhosa": "xh",
    "zulu": "zu", "persian": "fa", "filipino": "tl", "tagalog": "tl", "norwegian bokmål": "no",
    "frisian": "fy", "norwegian bokmal": "no", "norwegian nynorsk": "nn",
    "mandarin chinese": "zh", "simplified chinese": "zh", "traditional chinese": "zh",
    "brazilian portuguese": "pt", "european portuguese": "pt", "american english": "en",
    "british english": "en", "swiss german": "de",
}  # fmt: skip

OWN_NAMES = {  # what languages call themselves
    "deutsch": "de", "español": "es", "espanol": "es", "castellano": "es", "français": "fr",
    "francais": "fr", "italiano": "it", "português": "pt", "portugues": "pt", "nederlands": "nl",
    "vlaams": "nl", "русский": "ru", "українська": "uk", "中文": "zh", "汉语": "zh", "粤语": "yue",
    "日本語": "ja", "한국어": "ko", "polski": "pl", "türkçe": "tr", "turkce": "tr", "svenska": "sv",
    "norsk": "no", "bokmål": "no", "dansk": "da", "suomi": "fi", "íslenska": "is",
    "čeština": "cs", "slovenčina": "sk", "slovenščina": "sl", "hrvatski": "hr", "srpski": "sr",
    "magyar": "hu", "română": "ro", "ελληνικά": "el", "български": "bg", "العربية": "ar",
    "فارسی": "fa", "farsi": "fa", "עברית": "he", "हिन्दी": "hi", "বাংলা": "bn", "தமிழ்": "ta",
    "ไทย": "th", "tiếng việt": "vi", "bahasa indonesia": "id", "bahasa melayu": "ms",
    "català": "ca", "euskara": "eu", "galego": "gl", "cymraeg": "cy", "filipino": "tl",
    "bangla": "bn",
}  # fmt: skip


@cache
def _table() -> dict[str, str]:
    return {**CODES_BY_NAME, **OWN_NAMES, **_NAMES, **_OLD, **_THREE}


def two_letters(name: str) -> str:
    """The ISO 639-1 code for a code or name in small letters; `name` itself if it is unknown."""
    code = _table().get(name, name)
    return _OLD.get(code, code)
