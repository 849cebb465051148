"""From a training set to other trainers, and to people.

export   a training set for another trainer   formats  what each of them reads
chats    its rows, images marked              pictures  its images, as every trainer sees them
card     the README of a curated folder       page     any data folder as one HTML page
look     what the page shows                  plots    the card's and the page's pictures
"""
