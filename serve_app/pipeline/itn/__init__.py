"""Inverse text normalization: what was spoken as words is written in digits, as in 百分之五 and 5%.

The rules are those of ``wetext`` (WeTextProcessing's grammars, compiled), which say what a number is and of
which kind. How it is then written is decided here, because readers of a transcript want 2023年12月5号 and
下午3:30 where the grammars write 2023/12/05 and 3:30p.m.
"""

from serve_app.pipeline.itn.chinese import ChineseItn
from serve_app.pipeline.itn.edits import Edit
from serve_app.pipeline.itn.english import EnglishItn
from serve_app.pipeline.itn.scripts import Itn

__all__ = ["ChineseItn", "Edit", "EnglishItn", "Itn"]
