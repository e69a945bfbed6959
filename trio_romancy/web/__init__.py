"""The ASGI application behind :attr:`App.asgi`: CloudEvents, health, and cancellation."""
