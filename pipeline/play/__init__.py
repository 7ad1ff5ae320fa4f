"""A model and its circuits under one's fingers: any text, the next token, and parts that can be switched off.

``Session`` answers what is asked of one model, ``application`` is the small local server of it with its page.
"""
