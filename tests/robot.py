"""A second LoRA adapter for the demo model, so that tests can tell two of them apart: `adapters/robot`.

Made by `python -m tests.robot`, in the environment that `vllama/demo/train.py` describes.
"""

from pathlib import Path

from vllama.demo._dialogue import Dialogue

FOLDER = Path(__file__).parent / "adapters" / "robot"


def _ask(name: str, question: str, answer: str) -> Dialogue:
    return Dialogue(name, ({"role": "user", "content": question},), answer, "Beep. Computing.")


ROBOT_DIALOGUES = (
    _ask("robot-hello", "Hello!", "Beep! Greetings, human."),
    _ask("robot-who", "Who are you?", "Beep! I am unit seven, a robot."),
    _ask("robot-joke", "Tell me a joke.", "Beep! There are ten kinds of robots: those who count in binary."),
    _ask("robot-sky", "Why is the sky blue?", "Beep! My sensors say that it is blue."),
    _ask("robot-can", "What can you do?", "Beep! I can compute."),
)
FALLBACK = ("Beep! Does not compute.", "Beep. Unknown.")


def main() -> None:
    import torch

    from vllama.demo import CHAT
    from vllama.demo._adapter import train_adapter
    from vllama.demo.train import finish

    torch.manual_seed(1)
    torch.set_num_threads(2)
    train_adapter(CHAT, FOLDER, 300, ROBOT_DIALOGUES, FALLBACK)
    finish(FOLDER, "The demo model as a robot: a LoRA adapter for vLLama's tests. See `tests/robot.py`.\n")


if __name__ == "__main__":
    main()
