"""The page for people: one or several compare answers in a browser, and every vote is on disk before the page moves on.

items, image_items    what is compared, from any file of pairs, rankings or samples, and pictures beside it
draw_order            which comparison comes next, and how likely each was to come by now
vote_index            the votes of a store as arrays, kept up to date row by row
desk                  hands out work under leases, takes votes, takes them back
rendering             texts as HTML that can do nothing; differences
page_guard            who may ask: Host, origin, cookie, sizes, headers
label_page            the routes of a rater        owner_page     the routes of the owner
standings             the owner's numbers: progress, agreement, win rates, what is in dispute
page_app, page_server the application, and the process it runs in
tool_votes            votes of other tools         raw_votes      the export

Never imports torch.
"""
