"""The languages of Qwen3-ASR: by which codes and names clients know them, and by which names the model does.

Source: ``SUPPORTED_LANGUAGES`` of the qwen-asr package, the dialects of Qwen3-ASR's model card, and ISO 639.
"""

import unicodedata
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "zh": "Chinese",
        "en": "English",
        "yue": "Cantonese",
        "ar": "Arabic",
        "de": "German",
        "fr": "French",
        "es": "Spanish",
        "pt": "Portuguese",
        "id": "Indonesian",
        "it": "Italian",
        "ko": "Korean",
        "ru": "Russian",
        "th": "Thai",
        "vi": "Vietnamese",
        "ja": "Japanese",
        "tr": "Turkish",
        "hi": "Hindi",
        "ms": "Malay",
        "nl": "Dutch",
        "sv": "Swedish",
        "da": "Danish",
        "fi": "Finnish",
        "pl": "Polish",
        "cs": "Czech",
        "fil": "Filipino",
        "fa": "Persian",
        "el": "Greek",
        "ro": "Romanian",
        "hu": "Hungarian",
        "mk": "Macedonian",
    }
)
"""The model's name by ISO 639-1 code, or 639-3 where that has none."""

ALIGNED = frozenset({"zh", "en", "yue", "fr", "de", "it", "ja", "ko", "pt", "ru", "es"})
"""Codes of the languages whose words the aligner finds."""

DIALECTS: Mapping[str, str] = MappingProxyType(
    {
        "Anhui": "安徽话",
        "Dongbei": "东北话",
        "Fujian": "福建话",
        "Gansu": "甘肃话",
        "Guizhou": "贵州话",
        "Hebei": "河北话",
        "Henan": "河南话",
        "Hubei": "湖北话",
        "Hunan": "湖南话",
        "Jiangxi": "江西话",
        "Ningxia": "宁夏话",
        "Shandong": "山东话",
        "Shaanxi": "陕西话",
        "Shanxi": "山西话",
        "Sichuan": "四川话",
        "Tianjin": "天津话",
        "Yunnan": "云南话",
        "Zhejiang": "浙江话",
        "Wu": "吴语",
        "Minnan": "闽南语",
    }
)
"""Chinese names of the dialects that the model writes down as Chinese, by their English names. (The two that
the model card counts beside them, of Hong Kong and of Guangdong, are Cantonese.)"""

_OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "zh": "zho chi cmn wuu nan hsn gan cjy cdo mnp mandarin putonghua "
        "中文 汉语 漢語 华语 華語 普通话 普通話 国语 國語 "
        "北京话 上海话 上海 苏州话 台语 台語 客家话 hakka shanghai shanghainese hokkien taiwanese",
        "en": "eng 英语 英語 英文",
        "yue": "zh-yue zh-hk zh-hant-hk zh-mo 粤语 粵語 广东话 廣東話 广州话 白话 香港话 guangdong hongkong",
        "ar": "ara arb 阿拉伯语 阿拉伯文 العربية عربي",
        "de": "deu ger 德语 德文 deutsch",
        "fr": "fra fre 法语 法文 français francais",
        "es": "spa castilian 西班牙语 西班牙文 西语 español espanol castellano",
        "pt": "por 葡萄牙语 葡萄牙文 葡语 português portugues",
        "id": "ind in 印尼语 印尼文 印度尼西亚语 bahasaindonesia",
        "it": "ita 意大利语 意大利文 意语 italiano",
        "ko": "kor 韩语 韓語 韩文 韩国语 朝鲜语 한국어 한국말",
        "ru": "rus 俄语 俄文 русский русскийязык",
        "th": "tha 泰语 泰文 ไทย ภาษาไทย",
        "vi": "vie 越南语 越南文 越语 tiếngviệt tiengviet",
        "ja": "jpn jp 日语 日語 日文 日本語 日本语 にほんご",
        "tr": "tur 土耳其语 土耳其文 türkçe turkce",
        "hi": "hin 印地语 印地文 हिन्दी हिंदी",
        "ms": "msa may zsm 马来语 马来文 bahasamelayu melayu",
        "nl": "nld dut flemish 荷兰语 荷兰文 nederlands",
        "sv": "swe 瑞典语 瑞典文 svenska",
        "da": "dan 丹麦语 丹麦文 dansk",
        "fi": "fin 芬兰语 芬兰文 suomi",
        "pl": "pol 波兰语 波兰文 polski",
        "cs": "ces cze 捷克语 捷克文 čeština cestina",
        "fil": "tl tgl tagalog 菲律宾语 他加禄语 pilipino wikangfilipino",
        "fa": "fas per pes farsi 波斯语 波斯文 فارسی",
        "el": "ell gre 希腊语 希腊文 ελληνικά ελληνικα",
        "ro": "ron rum mo moldovan 罗马尼亚语 罗马尼亚文 română romana",
        "hu": "hun 匈牙利语 匈牙利文 magyar",
        "mk": "mkd mac 马其顿语 马其顿文 македонски",
    }
)
"""ISO 639-2 and -3 codes, and names in English, Chinese and the language itself, folded as by ``_folded``."""


def language_code(name: str) -> str | None:
    """The code in :data:`LANGUAGES` of a language or a Chinese dialect, however a client names it.

    Taken are ISO 639 codes, also with script and region (``zh-CN``, ``pt_BR``), and names in English, in
    Chinese or in the language itself, in any case: ``German``, ``德语``, ``Deutsch``, ``四川话``.
    ``None``: the model does not know it.
    """
    names = _names()
    folded = _folded(name)
    for ending in ("", "dialect", "language", "accent", "方言", "话", "語", "语"):
        if folded.endswith(ending) and (code := names.get(folded.removesuffix(ending))):
            return code
    parts = folded.split("-")
    for count in range(len(parts) - 1, 0, -1):
        code = names.get("-".join(parts[:count]))
        if code and len(parts[0]) <= 3:
            return code
    return None


def code_of(model_name: str | None) -> str | None:
    """The code of a language by the model's own name, as a hypothesis has it.

    Of several, such as ``Chinese,English``, it is the first one. ``None`` for ``None``, and for a name that
    the model made up.
    """
    first = (model_name or "").split(",")[0].strip().capitalize()
    return next((code for code, name in LANGUAGES.items() if name == first), None)


@cache
def _names() -> Mapping[str, str]:
    names = {code: code for code in LANGUAGES}
    names |= {_folded(name): code for code, name in LANGUAGES.items()}
    for english, chinese in DIALECTS.items():
        names |= {_folded(english): "zh", chinese: "zh", chinese.removesuffix("话"): "zh"}
    for code, others in _OTHER_NAMES.items():
        names |= {_folded(other): code for other in others.split()}
    return names


def _folded(name: str) -> str:
    """In small letters, without spaces, with ``-`` for ``_``."""
    folded = unicodedata.normalize("NFC", name).casefold().replace("_", "-")
    return "".join(char for char in folded if not char.isspace() and char not in "()")
