from mobilekit.cli.main import run

run()
