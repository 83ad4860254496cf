"""What people read: sentences, tables, charts and pages.

Takes the tables that other rooms write; gives text, figures and HTML. Never imports torch.
"""
