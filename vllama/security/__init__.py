"""What stands before the routes: which web pages, under which names and with which keys the gateway may be used."""
