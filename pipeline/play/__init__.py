"""A local page to try a model and its circuits on: any text, the next token, and parts that can be switched off.

``Session`` answers the questions about one model, ``application`` is the small local server of it with its page.
"""
