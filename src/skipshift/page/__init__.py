"""Sentences, tables, charts and HTML pages.

Takes the tables that other rooms write; gives text, figures and HTML. Never imports torch.
"""
