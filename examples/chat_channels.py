"""Workflows that talk to each other: a chat room, a queue of work, and answers to one instance.

    python examples/chat_channels.py

The first subscription fixes a channel's mode, and the mode decides which instances receive a message:

* ``"broadcast"``: every subscriber, beginning with its subscription; here ``room``,
* ``"competing"``: exactly one of the subscribers; here ``translations``,
* ``"direct"``: the instance that it was sent to with ``ctx.send_to``; here ``door`` and ``answers``.

Messages and subscriptions are stored in ``chat.db`` in the current directory, whether or not a process is running.
"""

import trio
from attrs import frozen

from trio_romancy import App, WorkflowContext, workflow

# -- a chat room: every guest hears everything -------------------------------------------------------------------------


@workflow
async def guest(ctx: WorkflowContext, name: str, host: str) -> list[str]:
    await ctx.subscribe("room", "broadcast")
    await ctx.send_to(host, "door", name)  # after the subscription nothing is missed
    heard: list[str] = []
    while True:
        message = await ctx.receive("room", data_type=str)
        if message.data == "good night":
            await ctx.unsubscribe("room")
            return heard
        heard.append(f"{message.metadata['by']}: {message.data}")
        if message.data.startswith(f"{name}, "):
            await ctx.publish("room", "fine, thanks", metadata={"by": name})
            await ctx.send_to(host, "door", name)


@workflow
async def party(ctx: WorkflowContext, guests: list[str]) -> None:
    await ctx.subscribe("door", "direct")
    for _ in guests:
        await ctx.receive("door")  # a guest has come in
    await ctx.publish("room", "welcome", metadata={"by": "host"})
    for name in guests:
        await ctx.publish("room", f"{name}, how are you?", metadata={"by": "host"})
        await ctx.receive("door")  # the guest has answered
    await ctx.publish("room", "good night", metadata={"by": "host"})


# -- a queue of work: each piece is done once, and the answer goes to the instance that asked -------------------------


@frozen
class Answer:
    word: str
    translation: str


@workflow
async def translator(ctx: WorkflowContext, words: dict[str, str]) -> int:
    await ctx.subscribe("translations", "competing")
    done = 0
    while True:
        question = await ctx.receive("translations", data_type=str | None)
        if question.data is None:
            return done
        assert question.sender is not None  # the instance that asked
        await ctx.send_to(question.sender, "answers", Answer(question.data, words[question.data]))
        done += 1


@workflow
async def translation(ctx: WorkflowContext, sentence: str) -> str:
    await ctx.subscribe("answers", "direct")
    words = sentence.split()
    for word in words:
        await ctx.publish("translations", word)
    translated: dict[str, str] = {}
    while len(translated) < len(words):
        answer: Answer = (await ctx.receive("answers", data_type=Answer)).data
        translated[answer.word] = answer.translation
    return " ".join(translated[word] for word in words)


DICTIONARY = {"the": "der", "old": "alte", "man": "Mann", "has": "hat", "a": "einen", "dog": "Hund"}


async def main() -> None:
    async with App("chat.db") as app:
        names = ["ada", "grace"]
        host = await app.start(party, names)
        guests = [await app.start(guest, name, host.instance_id) for name in names]
        for name, hearing in zip(names, guests, strict=True):
            print(f"{name} has heard:")
            for line in await hearing.result():
                print(f"  {line}")

        # Questions that come before the first translator wait in the channel.
        asking = [await app.start(translation, sentence) for sentence in ("the old man", "the man has a dog")]
        translators = [await app.start(translator, DICTIONARY) for _ in range(3)]
        print("translated:")
        for handle in asking:
            print(f"  {await handle.result()}")
        for _ in translators:
            await app.publish("translations", None)  # each message ends one translator
        print("words that the translators have done:")
        print(f"  {sum([await handle.result() for handle in translators])}")


if __name__ == "__main__":
    trio.run(main)
