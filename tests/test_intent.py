"""What a question asks about, told by its words."""

import pytest

from app.intent import is_about_page, is_about_structure, is_greeting, part_of

PAGE = """
Summarise this page
Can you sum up this chapter?
What are the key points?
What's this page about?
I don\N{RIGHT SINGLE QUOTATION MARK}t get it
What should I remember from this section?
TL;DR
Quiz me
Test my knowledge of this page
Ask me three questions
Explain like I'm five
ELI5
Put this page in simpler words
Translate to Urdu
Give me the gist
What did I just read here?
Create 5 multiple choice questions from this lesson
How does this work?
What does this section say about torque?
I don't get it
اس صفحے کا خلاصہ کریں
اس باب کو آسان الفاظ میں سمجھائیں
مجھ سے اس باب کے بارے میں سوال پوچھیں
اہم نکات کیا ہیں؟
یہ صفحہ کس بارے میں ہے؟
میرا کوئز لیں
is page ka khulasa karo
""".strip().splitlines()

ORDINARY = """
What is a robot?
Explain inverse kinematics
Summarise the history of robots
Quiz me on kinematics
Translate "robot" into Urdu
Why?
hello
Is a chess computer a robot?
روبوٹ کیا ہے؟
گیئر موٹر کے ساتھ کیا کرتے ہیں؟
""".strip().splitlines()

STRUCTURE = """
How many chapters are there?
What is in chapter 3?
Which chapters are there?
Show me the table of contents
What topics does this book cover?
What is this book about?
Which chapter explains the Kalman filter?
What comes in the chapter after this page, in which chapter?
Summarise chapter 4
باب 3 میں کیا ہے؟
اس کتاب میں کتنے ابواب ہیں؟
فہرست مضامین دکھائیں
یہ کتاب کس بارے میں ہے؟
""".strip().splitlines()


@pytest.mark.parametrize("question", PAGE)
def test_what_says_this_page_or_names_no_subject_is_about_the_page(question: str) -> None:
    assert is_about_page(question)
    assert not is_about_structure(question)
    assert not is_greeting(question)


@pytest.mark.parametrize("question", ORDINARY)
def test_what_names_a_subject_is_about_that(question: str) -> None:
    assert not is_about_page(question)
    assert not is_about_structure(question)


@pytest.mark.parametrize("question", STRUCTURE)
def test_what_asks_for_chapters_is_about_the_structure(question: str) -> None:
    assert is_about_structure(question)
    assert not is_about_page(question)


@pytest.mark.parametrize(
    ("question", "is_page"),
    [
        ("Summarise this page", True),
        ("Quiz me", True),
        ("خلاصہ", True),
        ("Explain it in simpler words", False),
        ("Translate into Urdu", False),
        ("Give me another example", False),
        ("Summarise your answer", False),
        ("Why?", False),
    ],
)
def test_in_a_conversation_what_can_mean_the_answer_before_is_not_about_the_page(
    question: str, *, is_page: bool
) -> None:
    assert is_about_page(question, "What is a robot?") is is_page


@pytest.mark.parametrize(
    "greeting",
    [
        "hello",
        "Hi there!",
        "Thank you so much",
        "How are you today?",
        "?",
        "سلام",
        "السلام علیکم",
        "شکریہ",
        "\U0001f600",
    ],
)
def test_greetings_are_recognised(greeting: str) -> None:
    assert is_greeting(greeting)


@pytest.mark.parametrize(
    ("question", "part"),
    [
        ("What is in chapter 12?", 12),
        ("Module IV?", 4),
        ("chapter three", 3),
        ("the 2nd part", 2),
        ("تیسرے باب میں کیا ہے؟", 3),
        ("باب نمبر 5", 5),
        ("the last chapter", "last"),
        ("the next lesson", "next"),
        ("Which chapters are there?", None),
    ],
)
def test_the_part_that_is_named_is_recognised(question: str, part: int | str | None) -> None:
    assert part_of(question) == part
