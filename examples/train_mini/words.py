"""The words that captions are made of: for every thing that can be drawn, what people call it."""

from __future__ import annotations

OPENINGS = (
    "a picture of ", "an illustration of ", "a painting of ", "a photo of ", "an image of ",
    "digital art of ", "a drawing of ", "a beautiful view of ", "concept art of ", "wallpaper, ",
    "draw ", "a render of ", "a photograph of ", "a scene of ", "show me ", "a poster of ",
)  # fmt: skip
STYLES = (
    "highly detailed", "ultra detailed", "4k", "8k", "digital art", "flat vector art",
    "best quality", "masterpiece", "cinematic lighting", "cinematic", "minimalist", "sharp focus",
    "beautiful", "colorful", "trending on artstation", "photorealistic", "vibrant colors",
    "simple", "icon", "high resolution", "oil painting", "watercolor", "anime style", "3d render",
    "dramatic lighting", "realistic", "award winning", "wide angle", "detailed", "hdr",
    "unreal engine", "pixel art", "cozy", "epic", "stunning", "illustration", "cartoon",
)  # fmt: skip
# What people ask for and nobody here can draw.
UNKNOWN = (
    "dragon", "woman", "man", "girl", "boy", "portrait", "person", "astronaut", "robot", "horse",
    "bird", "spaceship", "castle", "knight", "wizard", "princess", "unicorn", "dinosaur", "fish",
    "monster", "alien", "warrior", "train", "plane", "airplane", "bicycle", "bridge", "elephant",
    "lion", "tiger", "owl", "rabbit", "butterfly", "pizza", "coffee", "cake", "apple", "banana",
    "guitar", "piano", "book", "chair", "lamp", "clock", "sword", "crown", "ghost", "skull",
    "angel", "mermaid", "pirate ship", "waterfall", "volcano", "temple", "statue", "planet",
    "galaxy", "rocket", "samurai", "panda", "penguin", "whale", "turtle", "frog", "sushi",
    "old man", "queen", "fairy", "vampire", "zombie", "mushroom", "crystal", "library", "dancer",
)  # fmt: skip

COLOR_WORDS = {
    "cyan": ("cyan", "cyan", "turquoise", "teal", "light blue"),
    "gray": ("gray", "grey"),
    "purple": ("purple", "purple", "violet"),
    "red": ("red", "red", "red", "crimson"),
    "yellow": ("yellow", "yellow", "yellow", "golden"),
}
KIND_WORDS = {
    "circle": ("circle", "circle", "disc", "ball", "dot", "sphere"),
    "square": ("square", "square", "box", "cube"),
    "triangle": ("triangle", "triangle", "pyramid"),
    "star": ("star", "star", "five-pointed star"),
    "heart": ("heart", "heart", "love heart"),
    "diamond": ("diamond", "diamond", "rhombus", "gem"),
    "ring": ("ring", "ring", "donut"),
    "house": ("house", "house", "cottage", "home", "cabin", "hut"),
    "tree": ("tree", "tree", "oak"),
    "car": ("car", "car", "automobile", "taxi", "truck"),
    "cat": ("cat", "cat", "cat", "cat face", "kitten", "cute cat", "dog", "puppy", "fox", "animal"),
    "flower": ("flower", "flower", "daisy", "rose", "tulip", "sunflower"),
}
SIZE_WORDS = {"small": ("small", "tiny", "little"), "big": ("big", "large", "huge")}
SIDE_WORDS = {
    "": ("", "", "", "", " in the middle", " in the center"),
    "left": (" on the left", " on the left side"),
    "right": (" on the right", " on the right side"),
    "top": (" at the top",),
    "bottom": (" at the bottom",),
}
BACKGROUND_WORDS = {
    "black": ("black", "black", "dark"),
    "white": ("white", "white", "plain white"),
    "cyan": ("cyan", "turquoise", "light blue"),
    "gray": ("gray", "grey"),
}
ON_BACKGROUND = (
    " on %s background", " on %s background", " on %s background", ", %s background",
    " against %s background", " on %s backdrop", " in front of %s background",
)  # fmt: skip

TIME_WORDS = {
    "day": (
        "during the day", "by day", "in daylight", "", "", "under a blue sky", "at noon",
        "in the morning", "on a clear day", "in the daytime",
    ),
    "sunset": (
        "at sunset", "at sunset", "at sunset", "at dusk", "in the evening", "at sunrise",
        "at dawn", "at golden hour", "at twilight",
    ),
    "night": ("at night", "at night", "at night", "by night", "at midnight", "late at night"),
}  # fmt: skip
TIME_TAGS = {
    "day": ("day", "daytime", "blue sky", "morning"),
    "sunset": ("sunset", "dusk", "evening", "sunrise", "golden hour", "dawn", "twilight"),
    "night": ("night", "night", "midnight", "nighttime", "dark"),
}
CITY_WORDS = (
    "a city", "a city", "a modern city", "tokyo", "new york", "downtown", "a metropolis", "a city",
    "london", "paris", "a big city", "manhattan", "a town",
)  # fmt: skip
TOWERS = (
    "skyscrapers", "a skyline", "a city of skyscrapers", "a cityscape", "tall buildings",
    "city lights", "an urban skyline",
)  # fmt: skip
CYBERPUNK_WORDS = (
    "a cyberpunk city", "a cyberpunk city", "a cyberpunk city", "cyberpunk tokyo", "a neon city",
    "a futuristic city", "a sci-fi city", "neon tokyo", "a cyberpunk metropolis", "cyberpunk",
    "a synthwave city", "a vaporwave city", "a neon-lit city", "a dystopian city",
)  # fmt: skip
CYBERPUNK_STREETS = (
    "a neon street", "a cyberpunk street", "a street with neon signs", "a car in a cyberpunk city",
    "a cyberpunk alley", "a futuristic street",
)  # fmt: skip
NEON_WORDS = (
    "neon signs", "neon signs glowing", "neon lights", "glowing neon signs", "neon",
    "bright neon signs", "neon glow", "holograms", "glowing signs",
)  # fmt: skip
