#!/bin/sh
# Makes these recordings anew: sh traces/recorded/record.sh FOLDER
# Needs root, tracefs, and the programs below; runs each twice (pinned cache).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
programs=$here/../../tests/programs
mkdir -p "$1"
cd "$1"
cp "$programs"/* .
for name in cstress faultheavy forkcow resize thp; do
	gcc -O1 -pthread -o "$name" "$name.c"
done
javac Alloc.java
seq 1 150000 | sort -R >numbers.txt
head -c 1000000 /dev/urandom >random.bin

rec() {
	out=$here/$1.bin
	shift
	spfreplay record -q -o "$out" --pin-page-cache "$@" >/dev/null
}

rec true -- true
rec python-start -- /usr/bin/python3 -c 'import json, re'
rec pipeline -- bash pipeline.sh
rec gcc -- gcc -O1 -c small.c -o small.o
rec perl -- perl table.pl 5000
rec sqlite -- sqlite3 :memory: '.read table.sql'
rec sort --pin-cpus -- sort --parallel=2 -S 30M numbers.txt -o sorted.txt
rec xz --pin-cpus -- xz -T2 -1 -k -c --block-size=256KiB random.bin
rec python-threads --pin-cpus -- /usr/bin/python3 pythreads.py 8
rec cstress --pin-cpus -- ./cstress 4 400
rec cstress-stops --pin-cpus --checkpoint-every 0.1 -- ./cstress 3 500
rec faultheavy --pin-cpus -- ./faultheavy 2 2
rec forkcow -- ./forkcow
rec thp -- ./thp
rec resize -- ./resize beyond memfd
rec java --pin-cpus -- java -Xmx64m -XX:+UseSerialGC Alloc 200
rec node --pin-cpus -- node workers.js
