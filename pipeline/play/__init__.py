"""The pages of a model and its circuits, to be tried: any text, the next token, and parts that are changed.

``Session`` answers the questions about one model, ``application`` is the small local server of it and of its pages.
"""
