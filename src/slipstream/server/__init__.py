"""How the world asks: the HTTP contract over one home folder. No training framework in this process.

from slipstream.server.service import serve
serve(home_folder("shop-home"), port=8000)
"""
