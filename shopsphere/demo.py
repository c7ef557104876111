"""A dozen products to look at: name, price and how many there are."""

PRODUCTS = (
    ("Laptop, 14 inch", 999.99, 10),
    ("Mechanical keyboard", 89.9, 40),
    ("Wireless mouse", 24.5, 120),
    ("USB-C dock", 139.0, 25),
    ("Monitor, 27 inch", 279.0, 18),
    ("Webcam, 1080p", 49.95, 60),
    ("Noise-cancelling headphones", 199.0, 30),
    ("Desk lamp", 34.9, 75),
    ("Notebook, A5, dotted", 4.2, 500),
    ("Café mug, 0.3 l", 8.5, 200),
    ("Backpack, 20 l", 64.0, 45),
    ("Last one: signed poster", 15.0, 1),
)
