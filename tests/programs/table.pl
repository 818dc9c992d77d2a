# A hash of many keys, sorted by value: a heavy user of malloc and brk.
my $n = $ARGV[0] // 20000;
my %h = map { ("key$_" => ($_ * 7919) % $n) } 1 .. $n;
my @k = sort { $h{$a} <=> $h{$b} } keys %h;
delete @h{@k[0 .. $n / 2]};
