"""Random chats with pictures, tools and settings, and what people and agents do to them."""

from vllm_script.config import CONVERSATIONS

MOST_PICTURES = 4
"""Pictures of a chat."""
TEXTS = [
    "What is shown in this picture?",
    "How many people are there, and what colour is the roof of the temple?",
    "Is there a tree? Answer with one word.",
    "Answer with one word.",
    "",
    "Compare the first picture with the second one. " * 8,
]
ANSWERS = ["Yes.", "A red roof.", "I cannot say."]
SETTINGS = [
    {},
    {"keep_ratio": 0.3},
    {"keep_ratio": 1.0},
    {"visual_token_budget": 9},
    {"mode": "cdpruner"},
    {"mode": "gsp"},
    {"mode": "uniform"},
    {"relevance": "embedding"},
    {"relevance": "none"},
    {"query": "a dog"},
]


def num_pictures(messages):
    """How many pictures the messages show."""
    parts = [part for m in messages if isinstance(m["content"], list) for part in m["content"]]
    return sum(part["type"] != "text" for part in parts)


class Chat:
    """A random chat, and what may happen to it.

    A turn is what users, tools and the assistant say up to the next question, a list of messages.

    Args:
        rng: that draws it.
        pictures: the parts of messages that it may show.
    """

    def __init__(self, rng, pictures):
        self._rng, self._pictures = rng, pictures
        self._system = [{"role": "system", "content": "Be kind."}] * (rng.random() < 0.2)
        self._turns = []
        for _ in range(rng.randint(1, 3)):
            self.go_on()
        self.change_settings()

    @property
    def messages(self):
        """Up to the last question, which is yet to be answered."""
        messages = self._system + [message for turn in self._turns for message in turn]
        return messages[:-1]

    def go_on(self):
        """Ask something more."""
        turn = []
        self._turns.append(turn)
        turn.append({"role": "user", "content": self._parts()})
        for _ in range(self._rng.choice([0, 0, 0, 1, 2])):
            turn.extend(self._result())
        turn.append({"role": "assistant", "content": self._rng.choice(ANSWERS)})

    def delete_a_turn(self):
        """Delete any turn but the only one."""
        if len(self._turns) > 1:
            self._turns.pop(self._rng.randrange(len(self._turns)))

    def edit_a_turn(self):
        """Ask something else, and go on with what came next, as some clients let users do."""
        self._rng.choice(self._turns)[0] = {"role": "user", "content": self._parts()}

    def start_from_a_turn(self):
        """Ask something else, and drop what came next, as other clients do."""
        del self._turns[self._rng.randrange(len(self._turns)) :]
        self.go_on()

    def answer_otherwise(self):
        """Replace an answer."""
        turn = self._rng.choice(self._turns)
        turn[-1] = {"role": "assistant", "content": self._rng.choice(ANSWERS)}

    def change_settings(self):
        """Ask with other settings, under another policy."""
        self.script = dict(self._rng.choice(SETTINGS))
        policy = self._rng.choice([None, *CONVERSATIONS])
        self.script |= {"conversation": policy} if policy else {}

    def _parts(self):
        parts = [{"type": "text", "text": self._rng.choice(TEXTS)}]
        return self._with_pictures(parts, self._rng.choice([0, 1, 1, 2]))

    def _result(self):
        """A call of a tool, and what it returns."""
        function = {"name": "look", "arguments": "{}"}
        calls = [{"id": "1", "type": "function", "function": function}]
        parts = self._with_pictures([{"type": "text", "text": "before"}], self._rng.randint(0, 1))
        return [
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": parts},
        ]

    def _with_pictures(self, parts, number):
        shown = num_pictures([message for turn in self._turns for message in turn])
        for _ in range(min(number, MOST_PICTURES - shown)):
            parts.insert(self._rng.randint(0, len(parts)), self._rng.choice(self._pictures))
        return parts


EDITS = [
    *(Chat.go_on, Chat.go_on, Chat.delete_a_turn, Chat.edit_a_turn),
    *(Chat.start_from_a_turn, Chat.answer_otherwise, Chat.change_settings),
]
