/* What lies at an address: nobody faults it in to find out. */
static long look(uintptr_t address)
{
	uint64_t entry = 0;
	off_t offset = (off_t)(at(address) / 4096 * sizeof entry);
	long value;

	if (pread(pagemap, &entry, sizeof entry, offset) != sizeof entry)
		return ABSENT;
	if (!(entry >> 62))
		return ABSENT;
	if (!(entry >> 63))
		return UNREADABLE;	/* swapped out */
	value = load(address);
	return value <= BUSERR || value == MAPERR || value == ACCERR ? UNREADABLE : value;
}

/* An address range that is free here, and lies in its page tables as in the trace. */
static void find_base(void)
{
	for (uintptr_t n = 16; n < 200; n++) {
		void *wanted = (void *)(n << 39);
		void *there = mmap(wanted, SPAN, PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE |
				   MAP_FIXED_NOREPLACE, -1, 0);

		if (there == wanted) {
			munmap(there, SPAN);
			base = n << 39;
			return;
		}
		if (there != MAP_FAILED)
			munmap(there, SPAN);
	}
	give_up("no free address range");
}

struct outcome {
	long result[OPERATIONS];
	long page[PAGES];
	unsigned long times;
	bool legal;
};

static struct outcome seen[64];
static unsigned int outcomes;

static bool fits(long there, long wanted)
{
	if (wanted == ANYTHING || there == wanted)
		return true;
	return there == UNREADABLE && wanted != ABSENT;
}

static bool is_legal(const struct outcome *one)
{
	for (int n = 0; n < LEGAL; n++) {
		bool same = true;

		for (int i = 0; i < OPERATIONS; i++)
			same = same && fits(one->result[i], legal_results[n][i]);
		for (int i = 0; i < PAGES; i++)
			same = same && (!pages[i] || fits(one->page[i], legal_pages[n][i]));
		if (same)
			return true;
	}
	return false;
}

static void note(const struct outcome *now)
{
	for (unsigned int n = 0; n < outcomes; n++)
		if (!memcmp(seen[n].result, now->result, sizeof now->result) &&
		    !memcmp(seen[n].page, now->page, sizeof now->page)) {
			seen[n].times++;
			return;
		}
	if (outcomes == sizeof seen / sizeof *seen)
		return;
	seen[outcomes] = *now;
	seen[outcomes].times = 1;
	seen[outcomes].legal = is_legal(now);
	outcomes++;
}

static void print_value(long value)
{
	if (value == MAPERR || value == ACCERR)
		printf("SIGSEGV (no %s)", value == MAPERR ? "mapping" : "right");
	else if (value == BUSERR)
		printf("SIGBUS");
	else if (value == ABSENT || value == UNREADABLE)
		printf("%s", value == ABSENT ? "not there" : "there, unreadable");
	else if (value < 0)
		printf("%s", strerror((int)-value));
	else
		printf("%#lx", value);
}

static int report(unsigned long rounds)
{
	unsigned long illegal = 0;

	for (unsigned int n = 0; n < outcomes; n++) {
		illegal += seen[n].legal ? 0 : seen[n].times;
		printf("%s, %lu times:\n", seen[n].legal ? "legal" : "ILLEGAL", seen[n].times);
		for (int i = 0; i < OPERATIONS; i++) {
			printf("  %s: ", names[i]);
			print_value(seen[n].result[i]);
			printf("\n");
		}
		for (int i = 0; i < PAGES; i++) {
			if (!pages[i])
				continue;
			printf("  page %#lx: ", (unsigned long)pages[i]);
			print_value(seen[n].page[i]);
			printf("\n");
		}
	}
	if (illegal)
		printf("ILLEGAL outcomes in %lu of %lu rounds\n", illegal, rounds);
	else
		printf("nothing illegal in %lu rounds: this kernel did not show it\n", rounds);
	return illegal ? 1 : 0;
}

static unsigned int draw(void)
{
	static uint32_t state = 2463534242u;

	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state;
}

/* Delays at the critical pair: from none to some microseconds, on either side. */
static void draw_delays(unsigned long round)
{
	unsigned int most = 1u << (round % 14);

	for (int n = 0; n < OPERATIONS; n++)
		delay[n] = critical[n] ? draw() % most : 0;
}

static void one_round(unsigned long round)
{
	struct outcome now;

	memset(&now, 0, sizeof now);
	munmap((void *)base, SPAN);
	set_up();
	for (int n = 0; n < OPERATIONS; n++)
		atomic_store(&done[n], 0);
	draw_delays(round);
	alarm(20);
	meet();
	meet();
	alarm(0);
	memcpy(now.result, result, sizeof result);
	for (int n = 0; n < PAGES; n++)
		now.page[n] = pages[n] ? look(pages[n]) : 0;
	note(&now);
}

int main(int argc, char **argv)
{
	unsigned long most = argc > 1 ? strtoul(argv[1], NULL, 0) : 100000;
	double seconds = argc > 2 ? strtod(argv[2], NULL) : 10;
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };
	pthread_t thread[THREADS];
	struct timespec begin, now;
	unsigned long round = 0;

	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	signal(SIGALRM, on_alarm);
	if (!HUGE_PAGES)
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (pagemap < 0)
		give_up("/proc/self/pagemap");
	find_base();
	open_files();
	for (int n = 0; n < THREADS; n++)
		if (pthread_create(&thread[n], NULL, bodies[n], NULL))
			give_up("pthread_create");
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		one_round(round++);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (round < most && (double)(now.tv_sec - begin.tv_sec) +
		 (double)(now.tv_nsec - begin.tv_nsec) * 1e-9 < seconds);
	atomic_store(&over, true);
	meet();
	for (int n = 0; n < THREADS; n++)
		pthread_join(thread[n], NULL);
	return report(round);
}
