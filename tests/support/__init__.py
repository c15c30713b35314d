"""Tools of the tests: a Hub on the loopback address, files made to do harm, and a process that is warm already."""
