#!/bin/bash
# healthcheck PORT PATH: whether http://127.0.0.1:PORT/PATH answers 200.
# Asked every few seconds in every container, so it starts no interpreter.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$2" >&3
read -r -t 3 _ status _ <&3
[ "$status" = 200 ]
