"""A user registration: a workflow that calls three activities, one after the other.

    python examples/user_registration.py

The workflow decides what happens, and the activities do it. Each step is recorded in ``users.db`` in the current
directory: ``create_database_record:1``, ``send_welcome_email:1``, ``create_user_profile:1``.
"""

import trio
from attrs import frozen

from trio_romancy import App, WorkflowContext, activity, workflow


@frozen
class UserInput:
    user_id: str
    email: str
    name: str


@frozen
class UserResult:
    user_id: str
    account_id: str
    status: str


@frozen
class Account:
    account_id: str
    email: str
    name: str


@frozen
class Profile:
    profile_id: str
    theme: str = "light"
    notifications: bool = True


@activity
async def create_database_record(user_id: str, email: str, name: str) -> Account:
    print(f"Creating user {user_id} in database")
    return Account(account_id=f"ACC-{user_id}", email=email, name=name)


@activity
async def send_welcome_email(email: str, name: str) -> None:
    print(f"Sending welcome email to {email}")


@activity
async def create_user_profile(account_id: str, name: str) -> Profile:
    print(f"Creating profile for {account_id}")
    return Profile(profile_id=f"PROF-{account_id}")


@workflow
async def user_registration(ctx: WorkflowContext, user: UserInput) -> UserResult:
    account = await create_database_record(user.user_id, user.email, user.name)
    await send_welcome_email(account.email, account.name)
    await create_user_profile(account.account_id, account.name)
    return UserResult(user_id=user.user_id, account_id=account.account_id, status="completed")


async def main() -> None:
    async with App("users.db", worker_id="worker-1") as app:
        user = UserInput(user_id="user_123", email="user@example.com", name="John Doe")
        handle = await app.start(user_registration, user)
        result = await handle.result()

        print(f"Workflow started: {handle.instance_id}")
        print(f"{result.user_id} has account {result.account_id}: {result.status}")
        print("The journal:")
        for entry in await app.history(handle.instance_id):
            print(f"  {entry.operation_id or 'the workflow':24}  {entry.kind}")


if __name__ == "__main__":
    trio.run(main)
