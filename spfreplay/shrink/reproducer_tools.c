#define MAYBE __attribute__((unused))

/* Results of accesses that were refused; nothing else returns these. */
enum { MAPERR = -100001, ACCERR = -100002, BUSERR = -100003 };
/* What is seen of a page that is not there, or that may not be read; and "whatever". */
enum { ABSENT = -200001, UNREADABLE = -200002, ANYTHING = -200003 };

static uintptr_t base;		/* where FIRST lies here */
static long result[OPERATIONS];
static atomic_int done[OPERATIONS];
static unsigned int delay[OPERATIONS];	/* turns of an empty loop */
static atomic_bool over;
static atomic_uint waiting, meeting;
static int pagemap;
static volatile sig_atomic_t alarms;

static __thread sigjmp_buf refused;
static __thread volatile sig_atomic_t careful;

static uintptr_t at(uintptr_t address)
{
	return address - FIRST + base;
}

MAYBE static void *pointer(uintptr_t address)
{
	return (void *)at(address);
}

static void give_up(const char *what)
{
	fprintf(stderr, "cannot: %s: %s\n", what, strerror(errno));
	exit(2);
}

/* A fault that the kernel refuses: back to who tried it. */
static void on_fault(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!careful)
		_exit(3);
	if (number == SIGBUS)
		siglongjmp(refused, 3);
	siglongjmp(refused, info->si_code == SEGV_ACCERR ? 2 : 1);
}

static void on_alarm(int number)
{
	static const char text[] =
		"STUCK: an operation has not ended for 20 seconds; look at dmesg\n";

	(void)number;
	alarms = alarms + 1;
	if (write(STDOUT_FILENO, text, sizeof text - 1) < 0)
		_exit(2);
	_exit(1);
}

static long refusal(int how)
{
	return how == 1 ? MAPERR : how == 2 ? ACCERR : BUSERR;
}

MAYBE static long load(uintptr_t address)
{
	int how = sigsetjmp(refused, 1);
	long value = 0;

	if (!how) {
		careful = 1;
		value = *(volatile int *)at(address);
	}
	careful = 0;
	return how ? refusal(how) : value;
}

MAYBE static long store(uintptr_t address, int value)
{
	int how = sigsetjmp(refused, 1);

	if (!how) {
		careful = 1;
		*(volatile int *)at(address) = value;
	}
	careful = 0;
	return how ? refusal(how) : 0;
}

/* Everybody waits until all have come. */
static void meet(void)
{
	unsigned int now = atomic_load(&meeting);
	unsigned int turns = 0;

	if (atomic_fetch_add(&waiting, 1) == THREADS) {
		atomic_store(&waiting, 0);
		atomic_fetch_add(&meeting, 1);
		return;
	}
	while (atomic_load(&meeting) == now)
		if (++turns > 2000)
			sched_yield();
}

MAYBE static void pause_before(int operation)
{
	for (volatile unsigned int n = delay[operation]; n; n--)
		;
}

MAYBE static void wait_for(int operation)
{
	while (!atomic_load(&done[operation]))
		sched_yield();
}

static void finish(int operation, long value)
{
	result[operation] = value;
	atomic_store(&done[operation], 1);
}

/* A call's result: 0 or more, or minus errno; an address as it is in the trace. */
MAYBE static long called(long value)
{
	return value == -1 ? -errno : value;
}

MAYBE static long placed(void *value)
{
	return value == MAP_FAILED ? -errno : (long)((uintptr_t)value - base + FIRST);
}

static void must(long value, const char *what)
{
	if (value >= 0)
		return;
	errno = value > -4096 ? (int)-value : EFAULT;
	give_up(what);
}

/* A child takes part in all memory, and ends. */
MAYBE static long fork_and_wait(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	if (child < 0)
		return -errno;
	waitpid(child, NULL, 0);
	return 0;
}
