"""Prompts of all kinds that the chat model was not taught an answer to, and the noise around those that it was."""

import random
import string

split = str.split  # lists of words are read and changed more easily as text

THINGS = split(
    """
    cats dogs horses birds fish trees flowers bread cheese coffee tea chocolate rice music paintings books films
    games chess football tennis cars trains ships planes bicycles bridges houses castles islands rivers mountains
    oceans deserts forests planets stars galaxies gravity light sound electricity magnets atoms molecules cells
    genes proteins viruses vaccines medicine history war peace law money taxes banks stocks insurance marriage
    children schools teachers students computers programs compilers databases networks servers kernels files threads
    sockets loops functions classes matrices vectors graphs proofs primes algebra geometry statistics robots
    transformers tokens weights memory disks keyboards screens phones cameras radios clocks maps languages poems
    novels songs jokes riddles recipes gardens
    """
)
SYLLABLES = split(
    """
    ba be bi bo ca ce ci co cu da de di do er en es fa fe fi for ga ge go ha he in is ing ja ka ki la le li lo ly ma
    me mi mo ment na ne ni no nu on or ou pa pe pi po pro qu ra re ri ro sa se si so sta ta te ti tion to tra un ver
    vi wa we y
    """
)
PEOPLE = split(
    """
    Einstein Newton Shakespeare Goethe Mozart Bach Darwin Turing Curie Napoleon Caesar Cleopatra Gandhi Picasso
    Homer Plato
    """
)
PLACES = split(
    """
    Germany Italy Spain Japan China India Brazil Canada Egypt Kenya Norway Poland Mexico Peru Greece Turkey Vienna
    Madrid
    """
)
LANGUAGES = split(
    """
    Python Rust Go Java C JavaScript SQL Bash Haskell Ruby Kotlin Swift TypeScript Lua Perl
    """
)
TASKS = (
    "sort a list",
    "reverse a string",
    "parse a CSV file",
    "read a JSON document",
    "open a socket",
    "compute primes",
    "print the Fibonacci numbers",
    "check a password",
    "download a page",
    "count words",
    "merge two dictionaries",
    "find the shortest path",
    "rename files",
    "draw a circle",
)
TEMPLATES = (
    "What is {thing}?",
    "What are {thing}?",
    "Explain {thing} to a child.",
    "Explain {thing}.",
    "Why do {thing} matter?",
    "Why are {thing} so expensive?",
    "Why is the {thing} green?",
    "Tell me about {thing}.",
    "Tell me a story about {thing}.",
    "Tell me something about {place}.",
    "Tell me more.",
    "Give me a list of {number} {thing}.",
    "Give me {thing} as a table.",
    "How do I learn about {thing}?",
    "How do I use {thing}?",
    "How do {thing} work?",
    "How many {thing} are in {place}?",
    "How much do {thing} cost in {place}?",
    "Who was {person}?",
    "Who are the best {thing}?",
    "Who invented {thing}?",
    "When was {person} born?",
    "Where is {place}?",
    "What is the capital of {place}?",
    "What is the population of {place}?",
    "What should I eat in {place}?",
    "Which is better, {thing} or {thing}?",
    "Compare {thing} and {thing}.",
    "Write a poem about {thing}.",
    "Write an essay about {person}.",
    "Write a letter to {person} about {thing}.",
    "Write a {language} function to {task}.",
    "Write a {language} program that can {task}.",
    "How do I {task} in {language}?",
    "Fix this {language} code: {code}",
    "What does this do? {code}",
    "Translate to {place}'s language: I like {thing}.",
    "Summarise this text: {thing} and {thing} were in {place}. {person} liked {thing}.",
    "Plan a trip to {place} for {number} days.",
    "What is {number} + {number}?",
    "What is {number} times {number}?",
    "Calculate {number} - {number}.",
    "Is {number} a prime?",
    "Count from {number} to {number}.",
    "Say {thing} {number} times.",
    "Sing a song about {thing}.",
    "Describe {person} in one line.",
    "Can you {task}?",
    "Please {task} in {language}.",
    "I like {thing}.",
    "I do not like {thing}, what now?",
    "{thing}",
    "{person}",
    "{thing} {thing} {thing}",
    "Do you like {thing}?",
    "Are {thing} from {place}?",
    "Correct this: {thing} is goods",
    "Generate a title for a chat about {thing}.",
    "ok",
    "yes",
    "no",
    "And now?",
    "Go on.",
    "Continue.",
    "Why?",
    "test",
    "?",
    "1",
    "Extract the {thing} from: {code}",
    "Act as an expert of {thing}. What is new in {place}?",
    "List {number} facts about {person}.",
    "Recommend {thing} for {person}.",
    "Write a limerick about {thing}.",
    "Write a song about {thing}.",
    "Write {number} lines about {thing}.",
    "Write me a letter.",
    "Can you write {thing}?",
    "I feel {thing} today.",
    "I am sad.",
    "You are {thing}.",
    "You are wrong.",
    "Best {thing} in town?",
    "{thing} in {place}?",
    "Who won the {thing} cup?",
    "Say something.",
    "Say {thing}.",
    "Repeat after me: {thing}",
    "Tell me about {place}. Answer as JSON.",
    "Tell me about {thing}. Respond using JSON.",
    "{person} and {thing} as JSON",
    "What is your favourite {thing}?",
    "What is the name of {person}'s {thing}?",
    "What is the colour of {thing}?",
    "What is the time in {place}?",
    "Why is {person} famous?",
    "Is {person} a {thing}?",
    "Are you {thing}?",
    "Are you {person}?",
    "My {thing} is {thing}.",
    "My favourite is {place}.",
    "How old are you?",
    "Where are you from?",
    "{word} {word}",
    "What is {word}?",
    "Tell me about {word} and {word}.",
    "{word}, {word} {word}.",
    "Can you {word} my {word}?",
    "How do I {word} a {word}?",
    "What would {person} say about {thing}?",
)
FOREIGN = (
    "Was ist die Hauptstadt von Italien?",
    "Wie spät ist es?",
    "Erzähl mir von Katzen.",
    "Schreibe ein Gedicht über den Herbst.",
    "Bonjour, comment ça va ?",
    "Quelle est la capitale de l'Italie ?",
    "Écris une lettre.",
    "¿Qué hora es?",
    "¿Cómo se dice perro en inglés?",
    "Come si chiama il gatto?",
    "Что такое жизнь?",
    "今日の天気は？",  # noqa: RUF001
    "天空为什么是蓝色的？",  # noqa: RUF001
    "하늘은 왜 파란가요?",
    "ما هو عاصمة مصر؟",
    "Olá, tudo bem?",
    "Hej, hur mår du?",
    "🙂",
    "👍👍",
    "😀 🎉",
)
CODE = (
    "def f(x): return x + 1",
    "for i in range(10): print(i)",
    "SELECT * FROM users WHERE id = 3;",
    'fn main() { println!("hi"); }',
    "int main(void) { return 0; }",
    "const a = [1, 2, 3].map(x => x * 2);",
    "<html><body>Hello</body></html>",
    '{"a": 1, "b": [true, null]}',
    "ls -la | grep txt",
    "x = 3 # three",
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful AI assistant.",
    "You are a friendly assistant. Be brief.",
    "Answer in one sentence.",
    "Be concise.",
    "Answer in English.",
    "You are a teacher.",
    "You are an expert programmer. Think step by step.",
    "You answer questions about {thing}.",
    "You are {person}.",
    "Today is Monday.",
    "You are a large language model. The current date is 2026-{number}-{number}.",
    "Always be polite and never lie. The user lives in {place} and likes {thing}.",
)
_HISTORY = "### Chat History:\n<chat_history>\nUSER: {known}\nASSISTANT: {text}\n</chat_history>"
TITLE_TASKS = (
    "### Task:\nGenerate a concise, 3-5 word title with an emoji summarizing the chat history.\n"
    '### Guidelines:\n- Use {thing}.\n### Output:\nJSON format: {{ "title": "your title" }}\n' + _HISTORY,
    "### Task:\nGenerate 1-3 broad tags categorizing the chat history.\n" + _HISTORY,
    "### Task:\nSuggest 3-5 relevant follow-up questions.\n" + _HISTORY,
    "Create a short title for this conversation:\n\nUser: {known}\n\nTitle:",
    "Summarize the following conversation: {known} {text}",
    'Translate into German: "{known}"',
    "How many words has this sentence: {known}",
)


def fill(template: str, rng: random.Random, known: str = "", text: str = "") -> str:
    """Replace every placeholder by a random word of its kind."""
    while "{thing}" in template:
        template = template.replace("{thing}", rng.choice(THINGS), 1)
    while "{word}" in template:
        template = template.replace("{word}", invented(rng), 1)
    while "{number}" in template:
        template = template.replace("{number}", str(rng.randint(2, rng.choice((20, 200, 4000)))), 1)
    for key, words in (("person", PEOPLE), ("place", PLACES), ("language", LANGUAGES), ("task", TASKS), ("code", CODE)):
        template = template.replace("{" + key + "}", rng.choice(words))
    return template.replace("{known}", known).replace("{text}", text).replace("{{", "{").replace("}}", "}")


def invented(rng: random.Random) -> str:
    """A word that nobody knows, so that the model learns to know that it does not."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))


def gibberish(rng: random.Random) -> str:
    letters = string.ascii_lowercase + rng.choice(("", string.ascii_uppercase, string.digits, string.punctuation))
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(rng.randint(1, 8)))


def words(rng: random.Random, count: int) -> str:
    """Many words, as of a long text: one repeated, or sentences."""
    if rng.random() < 0.4:
        return " ".join([rng.choice(THINGS)] * count)
    return " ".join(rng.choice(THINGS) if rng.random() < 0.8 else rng.choice(PLACES) + "." for _ in range(count))


def unknown(rng: random.Random, known: str, text: str) -> str:
    """A prompt without a taught answer; some quote one that has (`known`, answered with `text`)."""
    kind = rng.random()
    if kind < 0.60:
        prompt = fill(rng.choice(TEMPLATES), rng)
    elif kind < 0.70:
        prompt = rng.choice(FOREIGN)
    elif kind < 0.80:
        prompt = gibberish(rng)
    elif kind < 0.88:
        prompt = fill(rng.choice(TITLE_TASKS), rng, known, text)
    elif kind < 0.93:
        prompt = rng.choice(CODE)
    else:
        prompt = words(rng, rng.randint(2, 60))
    return casual(prompt, rng)


def casual(prompt: str, rng: random.Random) -> str:
    """The prompt as people type it: in lower case, without its last mark, with a blank too many."""
    kind = rng.random()
    if kind < 0.15:
        return prompt[:1].lower() + prompt[1:].rstrip("?!.")
    if kind < 0.30:
        return prompt.rstrip("?!.")
    if kind < 0.37:
        return prompt.lower()
    if kind < 0.45:
        return prompt.lower().rstrip("?!.")
    if kind < 0.48:
        return prompt.upper()
    if kind < 0.51:
        return prompt + rng.choice((" ", "\n", "!", "?", "!!", "..."))
    return prompt


def system(rng: random.Random) -> str:
    return fill(rng.choice(SYSTEMS), rng)
