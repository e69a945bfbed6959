"""The app over HTTP, as an ASGI application: events as CloudEvents, health, cancelling. Behind :attr:`App.asgi`."""
