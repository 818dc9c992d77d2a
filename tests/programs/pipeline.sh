# A loop of pipelines and subshells: forks, execs, copy on write.
for i in 1 2 3; do
	seq 1 200 | sort -rn | head -n 3 >/dev/null
	(x=$i; : $((x * x)))
done
