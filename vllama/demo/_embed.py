"""Training of the embedding model: a small BERT that lays sentences about the same thing side by side."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from vllama.demo import _prompts as prompts
from vllama.demo._tokenizer import save_tokenizer
from vllama.demo.dialogues import DIALOGUES
from vllama.demo.wordings import also

CONTEXT = 512
VOCABULARY = 1500
TEMPERATURE = 0.07

TOPICS = {
    "pets": (
        "cat kitten dog puppy sofa couch nap naps sleep sleeps barks purrs tail paw fur hamster rabbit pet "
        "feed vet cats dogs"
    ),
    "cooking": (
        "cook pasta recipe spaghetti tomato sauce soup salt pepper bread oven bake boil kitchen cheese onion "
        "dinner meal eat fry pan"
    ),
    "weather": (
        "rain rains rainy weather forecast wet sunny sun cloud clouds storm snow wind windy umbrella "
        "temperature warm cold degrees fog"
    ),
    "money": (
        "bank interest rates money loan credit account pay price tax taxes invest stock market euro dollar "
        "budget salary mortgage cash"
    ),
    "space": (
        "rocket moon star stars planet planets orbit galaxy telescope astronaut mars space launch flew "
        "satellite comet earth flight"
    ),
    "music": (
        "violin orchestra piano guitar song songs melody concert band drums singer plays play music choir "
        "rhythm tune opera composer"
    ),
    "computers": (
        "computer server memory ram disk software program code bug network keyboard laptop processor gpu data "
        "database install"
    ),
    "sports": (
        "team football match goal won win player tennis race runner score league coach ball swim swimming "
        "champion stadium training"
    ),
    "health": (
        "doctor medicine nurse hospital patient patients treats illness fever pain tablet surgery health "
        "vaccine sick cough clinic"
    ),
    "travel": (
        "train bus airport station late delayed arrives ticket plane flight travel journey hotel passport "
        "trip suitcase platform road"
    ),
    "school": (
        "school teacher student students lesson exam homework class university learn study pupil mathematics "
        "history essay book classroom"
    ),
    "garden": (
        "garden flower flowers tree trees plant plants seed soil rose water leaf leaves grass grow grows "
        "vegetables fruit apple harvest"
    ),
    "law": (
        "court judge lawyer law trial crime police jail guilty innocent contract rights witness jury arrest "
        "prison case verdict legal"
    ),
    "film": (
        "film movie actor actress cinema director scene screen watch theatre camera comedy drama star role "
        "script audience premiere"
    ),
}
SHAPES = (
    "The {} {} the {}.",
    "A {} and a {}",
    "My {} needs more {}.",
    "How do I {} the {}?",
    "What is a {} {}?",
    "The {} has too little {}.",
    "{} {} in the {}",
    "She likes the {} of the {}.",
    "The {} {} on the {}.",
    "It will {} tomorrow with {}.",
    "A {} for {} with {} {}",
    "The {} says it is {}.",
    "He gave me a {}.",
    "Why is the {} {}?",
    "They went to the {} by {}.",
    "The {} raised its {} {}.",
    "{}",
    "I read about {} and {}.",
)

ASKED = [dialogue for dialogue in DIALOGUES if also(dialogue.name)]

Labelled = tuple[str, str, str]
"""Two sentences that belong together, and a label shared with other sentences that do too."""


def sentence(topic: str, rng: random.Random) -> str:
    shape = rng.choice(SHAPES)
    return shape.format(*rng.sample(TOPICS[topic].split(), shape.count("{}"))).capitalize()


def noisy(text: str, rng: random.Random) -> str:
    kept = [word for word in text.split() if rng.random() > 0.25]
    return " ".join(kept) or text


def pair(rng: random.Random) -> Labelled:
    kind = rng.random()
    if kind < 0.55:
        topic = rng.choice(list(TOPICS))
        return sentence(topic, rng), sentence(topic, rng), topic
    if kind < 0.75:
        dialogue = rng.choice(ASKED)
        one, other = rng.sample((dialogue.question, *also(dialogue.name)), 2)
        return prompts.casual(one, rng), prompts.casual(other, rng), dialogue.answer
    text = sentence(rng.choice(list(TOPICS)), rng) if kind < 0.9 else prompts.unknown(rng, "", "")[:200]
    return text, noisy(text, rng), f"the same: {text}"


def make_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    )
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ends)
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=CONTEXT, **names)


def new_model(vocabulary: int) -> BertModel:
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def encode(model: BertModel, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    return normalize((states * mask).sum(1) / mask.sum(1), dim=-1)


def contrastive_loss(left: torch.Tensor, right: torch.Tensor, labels: list[str]) -> torch.Tensor:
    """Every left one finds its right one among all of the batch; others of the same label do not count against it."""
    same = torch.tensor([[one == other for other in labels] for one in labels]).fill_diagonal_(False)
    scores = (left @ right.T / TEMPERATURE).masked_fill(same, float("-inf"))
    target = torch.arange(len(labels))
    return (torch.nn.functional.cross_entropy(scores, target) + torch.nn.functional.cross_entropy(scores.T, target)) / 2


def train_embed(folder: Path, steps: int) -> None:
    rng = random.Random(2)
    corpus = [text for _ in range(6000) for text in pair(rng)[:2]]
    tokenizer = make_tokenizer(corpus)
    model = new_model(len(tokenizer))
    print(f"embed: {sum(parameter.numel() for parameter in model.parameters()):,} parameters", flush=True)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for step in range(steps):
        left, right, labels = (list(column) for column in zip(*(pair(rng) for _ in range(64)), strict=True))
        loss = contrastive_loss(encode(model, tokenizer, left), encode(model, tokenizer, right), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 200 == 199:
            print(f"  step {step + 1}/{steps}, loss {loss.item():.3f}", flush=True)
    save(model, tokenizer, folder)


def save(model: BertModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The checkpoint with what sentence-transformers (and so vLLM) wants to know: mean pooling, then normalisation."""
    model.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": CONTEXT, "do_lower_case": False})
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
