"""What a question asks about: the page that it is asked on, the book's structure, or a subject of its own.

It is told by words, in English and in Urdu. A client that knows better says so with `scope`.
"""

import re
import unicodedata


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_PAGE_NOUNS = (
    "page chapter section lesson article tutorial lecture reading صفحہ صفحے باب سبق چیپٹر سیکشن پیج safha safhe sabaq"
)
_THIS = "this current present اس یہ موجودہ"
_NOUNS = _words(
    f"{_PAGE_NOUNS} text passage document topic unit module part material content contents post guide subject concept "
    "stuff book course textbook pages chapters sections lessons units modules parts topics weeks part's page's chapter's many number "
    "structured organised organized called titled titles حصہ حصے حصوں مضمون مضامین متن موضوع مواد ابواب اسباق فہرست کتاب کتنے کتنی سے"
)
"""What stands for the page if the question names nothing else."""

_REQUESTS = _words(
    # In any turn
    "summarise summarize summarised summarized summary summaries summarising summarizing sum recap tldr gist takeaway "
    "takeaways highlights overview digest quiz quizzes flashcard flashcards mcq mcqs test essence outline notes nutshell "
    "خلاصہ خلاصے خلاصا کوئز کوئیز ٹیسٹ نکات نقاط نچوڑ لباب khulasa"
)
_REPEATABLE = _words(
    # What can also be asked of the answer before
    "explain explanation explained simplify simplified simpler simply translate translation translated eli5 paraphrase rephrase "
    "rewrite reword shorten condense elaborate clarify example examples analogy questions question exercise exercises "
    "practice points bullets break breakdown main key important teach unpack describe "
    "سمجھائیں سمجھاؤ سمجھا سمجھائیے سمجھاو سمجھادیں وضاحت تشریح ترجمہ آسان سوال سوالات سوالوں مشق مشقیں مثال مثالیں مختصر "
    "اہم samjhao samjhaen samjhaein samjha tarjuma asan aasan sawal"
)
_DEICTIC = _words("this here above یہ یہاں اس اسے اسکا yeh ye")
_CONVERSATION = _words(
    "that it its those them these again more another previous last your answer said اسے انہیں وہ ان مزید دوبارہ پچھلا"
)
"""What points to the answer before, if there is one."""

_FILLERS = _words(
    # Grammar
    "a about after all also am an and any are as at based be been being but by can could did do does down for from get give "
    "had has have how i if i'm im in into is it its just let let's lets like may me might my of off on one or our out over "
    "please pls plz kindly really s should so some such than thanks thank that the their them then there these they things thing "
    "this those through to too up us very want was we were what what's whats when where which while who why will with "
    "without would you your yourself hey hi hello ok okay now again more another right "
    # Asking
    "ask asking tell show make create generate write prepare produce provide list name need help put turn walk get got don't dont didn't go take state "
    "talk discuss discussed cover covers covered covering say says said mean means meant teaches learn learned learnt learning "
    "know knowing remember understand understanding study studying revise revision exam read reading see find works work "
    "use used useful matter matters purpose goal point idea ideas answer answers knowledge check prep told "
    # How
    "simple plain easy easier short shorter brief briefly quick quickly concise concisely detailed detail details depth "
    "bullet table sentence sentences word words paragraph paragraphs line lines minute minutes term terms language languages "
    "beginner beginners child children kid kids year years old yr student students layman dummies newbie level school "
    "grade class grandma teenager step steps stepwise clearly clear better basic basics core central essential "
    "essentials everything whole entire full most few several couple hard difficult harder multiple choice true false "
    "english urdu hindi arabic french german spanish chinese portuguese turkish bengali punjabi pashto sindhi persian "
    "farsi russian japanese korean italian indonesian roman two three four five six seven eight nine ten twelve twenty "
    # Urdu
    "از اور آپ آپکو آئی آیا ایک اردو انگریزی بارے بتا بتایا بتائے بتائیں بتاؤ بتائیے بتاو بنا بنائیں بناؤ بنیادی براہ بھی پر پوچھ "
    "پوچھیں پوچھو پوچھیے پورا پورے پوری پانچ تم تین تفصیل تفصیلی تھا تھی تھوڑا جملوں جملے جو چند چار دس دو دیں دے دیجیے دیجئے "
    "ذرا زبان ساری سارے سب سادہ سکتا سکتی سکتے سے سمجھ شکل صرف عام فہم کا کو کون کچھ کر کرو کرم کریں کرکے کرنا کرنی کس کہا "
    "کہتا کہتی کی کیا کیجیے کیجئے کیسے کے گیا گئی گئے لب لفظوں الفاظ لکھ لکھیں لیں لو لیے لئے مجھ مجھے مجھکو متعلق مطلب مکمل مہربانی "
    "میرا میری میرے میں نقطے نہیں نے ہم ہمیں ہوں ہو ہے ہیں یہ وہ یاد رکھنا چاہیے چاہئے پڑھا سیکھا سیکھیں "
    "ka ki ke ko mein mai main se par karo karen karein kar dein den mujhe ap aap kya hai hain bare batao urdu lafzon alfaz"
)

_WORDS = _REQUESTS | _REPEATABLE | _NOUNS | _DEICTIC | _FILLERS

_SAYS_PAGE = re.compile(
    rf"(?<!after )(?<!before )(?<!than )(?<!besides )\b(?:{'|'.join(_THIS.split())})\s+(?:\w+\s+)?(?:{'|'.join(_PAGE_NOUNS.split())})\b|\bon (?:the|my) (?:current )?page\b"
    r"|\biss? (?:page|chapter|safhe|safha|sabaq|bab) (?:ka|ki|ke|ko|mein|main|se|par)\b"
)


def _numbered(*languages: str) -> dict[str, int]:
    """Return the number of each word, which is its place in its language."""
    return {word: number for words in languages for number, word in enumerate(words.split(), 1)}


_NUMBERS = _numbered(
    "one two three four five six seven eight nine ten eleven twelve",
    "i ii iii iv v vi vii viii ix x xi xii",
    "ایک دو تین چار پانچ چھ سات آٹھ نو دس",
)
_ORDINALS: dict[str, int | str] = {
    **_numbered(
        "first second third fourth fifth sixth seventh eighth ninth tenth",
        "پہلا دوسرا تیسرا چوتھا پانچواں چھٹا ساتواں آٹھواں",
        "پہلے دوسرے تیسرے چوتھے پانچویں چھٹے ساتویں آٹھویں",
    ),
    **dict.fromkeys(("last", "final", "آخری"), "last"),
    **dict.fromkeys(("next", "اگلا", "اگلے"), "next"),
    **dict.fromkeys(("previous", "پچھلا", "پچھلے"), "previous"),
    "opening": 1,
}

_NUMBER = rf"(?:\d+|[ivx]+|{'|'.join(_NUMBERS)})"
_ORDINAL = rf"(?:\d+(?:st|nd|rd|th)|{'|'.join(_ORDINALS)})"
_PART = (
    r"(?:chapters?|parts?|modules?|units?|lessons?|sections?|weeks?|volumes?|lectures?|topics?|"
    r"ابواب|باب|حصہ|حصے|حصوں|سبق|اسباق|ماڈیول|یونٹ|چیپٹرز?|kapitel|chapitres?|cap[ií]tulos?|capitol[oi]|hoofdstuk(?:ken)?|bölüm|глав[аы]|فصل|فصول)"
)
_STRUCTURE = re.compile(
    rf"\b{_PART}\s+(?:no\.?|number|نمبر)?\s*{_NUMBER}\b|\b{_ORDINAL}\s+{_PART}\b"
    rf"|\b(?:how many|number of|list(?: of)?|which|what|name(?: of)?|names of|titles of|every|all(?: of)?|the|کتنے|کتنی|کون سے|کونسے|کن|کس|تمام|سارے|سب)"
    rf"\s+(?:\w+\s+){{0,3}}?(?:chapters|parts|modules|units|lessons|sections|weeks|topics|pages|ابواب|باب|اسباق|سبق|حصے|حصوں|چیپٹرز?)\b"
    r"|\bwhich\s+(?:chapter|part|module|unit|lesson|section|page)\b"
    r"|\btable of contents\b|\btoc\b|\b(?:contents|structure|outline|syllabus|curriculum|organi[sz]ation|overview|summary|index) of (?:the|this) (?:book|course|textbook)\b"
    r"|\b(?:book|course|textbook)'?s? (?:contents|structure|outline|syllabus|curriculum)\b"
    r"|\b(?:is|are) (?:the|this) (?:book|course|textbook) (?:about|structured|organi[sz]ed|divided)\b"
    r"|\b(?:does|do|will|can) (?:i|we|the|this|you)(?: (?:book|course|textbook))? (?:cover|teach|contain|learn (?:in|from) (?:this|the) (?:book|course))\b"
    r"|\b(?:the|this) (?:book|course|textbook) (?:cover|teach|contain|deal with|treat|about)\w*"
    r"|\bwhere (?:in|does) (?:the|this) book\b|\bin (?:the|this) (?:book|course) (?:are|is) there\b"
    r"|فہرست(?: مضامین)?|فہرستِ|\bکتاب (?:کس بارے|میں کیا کیا|کے (?:موضوعات|ابواب|حصے|بارے)|کا خاکہ|کی (?:ساخت|فہرست|ترتیب))"  # noqa: RUF001
)

_GREETINGS = _words(
    "hello hi hey hiya there greetings good morning afternoon evening night day bye goodbye thanks thank you thx ty ok okay cool great nice welcome dear friend bot assistant everyone سلام السلام علیکم وعلیکم اسلام شکریہ بہت آداب ہیلو "
    "خدا اللہ حافظ صبح بخیر شب جی آپ کا خوش آمدید salam assalam o alaikum shukriya khuda hafiz"
)
_GREETING_PHRASE = re.compile(
    r"\bhow(?: are|'re|'s) (?:you|u|it going|things)(?: doing)?(?: today)?\b|\b(?:so|very) much\b|\ba lot\b|\bsee you(?: later| soon)?\b"
    r"|\bnice to meet you\b|(?:آپ )?(?:کیسے|کیسی|کیسا) (?:ہیں|ہو|ہے)\b|کیا حال (?:ہے|ہیں)"
)

_VARIANTS = str.maketrans("يىكةۀ", "ییکہہ", "\N{ARABIC TATWEEL}\N{ZERO WIDTH NON-JOINER}")


def is_about_page(question: str, previous_question: str | None = None) -> bool:
    """Whether the question is about the page that it is asked on.

    It says so ("this chapter"), or it names no subject of its own ("Quiz me", "What is this about?"). In a conversation, what can
    also be meant of the answer before ("Explain it") is not about the page.
    """
    text = _plain(question)
    if _SAYS_PAGE.search(text):
        return True
    if _STRUCTURE.search(text):
        return False
    if subject_of(question):
        return False
    present = set(re.findall(r"[\w']+", text))
    if previous_question is not None:
        return bool(present & _REQUESTS) and not present & _CONVERSATION
    return bool(present & (_REQUESTS | _REPEATABLE | _DEICTIC | {"it"})) and not is_greeting(question)


def is_about_structure(question: str) -> bool:
    """Whether the question is about the book's chapters: what they are, or what one of them holds."""
    return _STRUCTURE.search(_plain(question)) is not None


def is_greeting(question: str) -> bool:
    """Whether the question is only a greeting or thanks, or has no word at all."""
    return set(re.findall(r"[\w']+", _GREETING_PHRASE.sub("", _plain(question)))) <= _GREETINGS


def subject_of(question: str) -> list[str]:
    """Return the words of the question that can name a subject: all that are not about asking, the page or the book."""
    return [word for word in re.findall(r"[\w']+", _plain(question)) if word not in _WORDS and not word.isdecimal()]


def part_of(question: str) -> int | str | None:
    """Return which part of the book the question names: its number, or `last`, `next` or `previous`; None if it names none."""
    text = _plain(question)
    if found := re.search(rf"\b{_PART}\s+(?:no\.?|number|نمبر)?\s*(?P<number>{_NUMBER})\b", text):
        return _number(found["number"])
    if found := re.search(rf"\b(?P<ordinal>{_ORDINAL})\s+{_PART}\b", text):
        ordinal = found["ordinal"]
        return _ORDINALS.get(ordinal) or int(re.match(r"\d+", ordinal)[0])  # type: ignore[index]  # All others begin with one.
    return None


def _number(text: str) -> int | None:
    if text.isdecimal():
        return int(text)
    return _NUMBERS.get(text)


def _plain(question: str) -> str:
    """Return the question as its words are compared: without case, vowel signs, and other spellings of a letter."""
    text = unicodedata.normalize("NFKC", question).translate(_VARIANTS).casefold()
    text = "".join(character for character in text if unicodedata.category(character) != "Mn")
    return " ".join(re.sub(r"\btl\s?;\s?dr\b", "tldr", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")).split())
