/*
 * fault.c - how touches of absent pages reach serve(): by SIGBUS in the toucher, or by a thread.
 *
 * Inline: the kernel sends SIGBUS to the toucher (UFFD_FEATURE_SIGBUS), and the handler, on the toucher's own stack,
 * fetches the page: read submitted, a batch evicted while it flies, spin, block, map, return; the instruction runs
 * again. The handler keeps nothing big on the stack (a signal stack may be 8 KiB, of which the kernel's frame takes
 * 3 or more), allocates nothing and takes no lock. It is installed without SA_ONSTACK and blocks all other signals
 * but the synchronous ones. A SIGBUS that is not ours, and one for a page that cannot be had, goes to the handler that
 * was there before.
 *
 * Thread: `drv-fault` reads the faults from userfaultfd, keeps as many reads in flight as there are touchers, and the
 * kernel wakes them when their page is mapped. It touches no region memory itself, and joins at close.
 */
#include "region.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <ucontext.h>

/* Faults that the thread has accepted and not answered. */
#define PENDING_MAX 64u
/* How long a toucher without a page has to run into SIGBUS before the marker goes away again. */
#define REFUSAL_NANOS 20000000
/* An idle thread wakes everybody so often: no toucher hangs for a wake-up that was lost. */
#define IDLE_MILLIS 100

/* -- SIGBUS ----------------------------------------------------------------------------------------------- */

static struct sigaction previous;
static int installed;
static pthread_mutex_t installing = PTHREAD_MUTEX_INITIALIZER; /* guards the two above; never taken by the handler */

/* Writes a decimal number; returns its length. */
static size_t put_number(char *out, uint64_t number)
{
	char digits[20];
	size_t length = 0;

	do
		digits[length++] = (char)('0' + number % 10);
	while ((number /= 10) != 0);
	for (size_t i = 0; i < length; i++)
		out[i] = digits[length - 1 - i];
	return length;
}

static void say(uint64_t page, int error)
{
	char line[96] = "drover: error: cannot have page ";
	size_t at = strlen(line);

	at += put_number(line + at, page);
	memcpy(line + at, " of a region: errno ", 20);
	at += 20;
	at += put_number(line + at, (uint64_t)error);
	line[at++] = '\n';
	if (write(STDERR_FILENO, line, at) < 0)
		return;
}

/* To whoever had SIGBUS before us. With the default action: the instruction runs again and ends the process. */
static void pass_on(int signal_number, siginfo_t *info, void *context)
{
	if ((previous.sa_flags & SA_SIGINFO) != 0 && previous.sa_sigaction != NULL) {
		previous.sa_sigaction(signal_number, info, context);
	} else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
		previous.sa_handler(signal_number);
	} else {
		struct sigaction standard = { .sa_handler = SIG_DFL };

		sigaction(SIGBUS, &standard, NULL);
	}
}

static void on_sigbus(int signal_number, siginfo_t *info, void *context)
{
	int saved = errno;
	struct drover_region *region = info->si_code > 0 ? region_at(info->si_addr) : NULL;

	if (region != NULL) {
		uint64_t page = (uint64_t)((uint8_t *)info->si_addr - region->base) / PAGE;
		int write = 1, present = 1, rc;

#if defined(__x86_64__)
		greg_t code = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR];

		present = (code & 1) != 0;
		write = (code & 2) != 0;
#endif
		rc = serve(region, page, write, present && write, now());
		if (rc < 0 && (region->flags & DROVER_REGION_SAY) != 0)
			say(page, -rc);
		/* Before passing on: the other handler may never return. */
		region_leave(region);
		if (rc == 0) {
			errno = saved;
			return;
		}
	}
	errno = saved;
	pass_on(signal_number, info, context);
}

static int install(void)
{
	struct sigaction ours = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, now_there;
	static const int synchronous[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
	int rc = 0;

	sigfillset(&ours.sa_mask);
	for (size_t i = 0; i < sizeof(synchronous) / sizeof(synchronous[0]); i++)
		sigdelset(&ours.sa_mask, synchronous[i]);
	pthread_mutex_lock(&installing);
	rc = result(sigaction(SIGBUS, NULL, &now_there));
	if (rc == 0 && now_there.sa_sigaction != on_sigbus) {
		previous = now_there;
		rc = result(sigaction(SIGBUS, &ours, NULL));
	}
	installed += rc == 0;
	pthread_mutex_unlock(&installing);
	return rc;
}

/* Gives SIGBUS back with the last region, unless somebody installed over us: then ours stays and passes on. */
static void uninstall(void)
{
	struct sigaction now_there;

	pthread_mutex_lock(&installing);
	if (--installed == 0 && sigaction(SIGBUS, NULL, &now_there) == 0 && now_there.sa_sigaction == on_sigbus)
		sigaction(SIGBUS, &previous, NULL);
	pthread_mutex_unlock(&installing);
}

/* -- the fault thread ------------------------------------------------------------------------------------- */

struct pending {
	uint64_t page, touched;
	int write, protection;
	int waited; /* the page was BUSY meanwhile */
};

/* SIGBUS for a toucher whose page is as it was: a marker for as long as it takes to run into it. */
static void refuse_toucher(struct drover_region *region, uint64_t page)
{
	uint32_t word = word_at(region, page);
	struct timespec pause = { 0, REFUSAL_NANOS };
	struct iovec vector;

	if (is_mapped(word) || state_of(word) == DROVER_PAGE_BUSY || !take(region, page, word))
		return;
	memory_poison(region, page);
	memory_wake(region, page, 1);
	nanosleep(&pause, NULL);
	if (!region->shared)
		memory_drop(region, &page, 1, 0, &vector);
	else
		madvise(region->base + page * PAGE, PAGE, MADV_DONTNEED);
	publish(region, page, word, state_of(word));
}

/* Whether this fault has its answer. */
static int answer(struct drover_region *region, struct context *context, struct pending *fault)
{
	uint32_t state = state_of(word_at(region, fault->page));
	uint64_t looked;

	if (state == DROVER_PAGE_BUSY) {
		fault->waited = 1;
		return 0;
	}
	/* It was brought in, and may have left again: who still wants it asks again. */
	if (fault->waited) {
		uint64_t nanos = now() - fault->touched;

		count(&region->control->stats.faults, 1);
		count(&region->control->stats.stall_nanos, nanos);
		histogram_add(region->control->fault_histogram, nanos);
		/*
		 * Every publish() of a mapped or poisoned page has woken the toucher; the ways out of RAM do not. Waking
		 * once too often makes faults that are none.
		 */
		if (state != DROVER_PAGE_CLEAN && state != DROVER_PAGE_DIRTY && state != DROVER_PAGE_POISON)
			memory_wake(region, fault->page, 1);
		return 1;
	}
	if (state == DROVER_PAGE_COLD) {
		if (start_reads(region, context, &fault->page, 1, 1, fault->write, &looked) > 0) {
			fault->waited = 1;
			return 0;
		}
		if (state_of(word_at(region, fault->page)) != DROVER_PAGE_COLD)
			return 0;
		/* No room for the easy way. */
	}
	if (serve(region, fault->page, fault->write, fault->protection, fault->touched) < 0 &&
	    state_of(word_at(region, fault->page)) != DROVER_PAGE_POISON)
		refuse_toucher(region, fault->page);
	memory_wake(region, fault->page, 1);
	return 1;
}

/* Takes what userfaultfd has, as far as there is room for it. */
static uint32_t accept_faults(struct drover_region *region, struct pending *pending, uint32_t pending_count)
{
	struct uffd_msg messages[16];
	uint32_t room = PENDING_MAX - pending_count;
	uint64_t time;
	ssize_t size;

	if (room == 0)
		return pending_count;
	size = read(region->uffd, messages, (room < 16 ? room : 16) * sizeof(messages[0]));
	time = now();
	for (ssize_t i = 0; i < size / (ssize_t)sizeof(messages[0]); i++) {
		uint64_t address = messages[i].arg.pagefault.address, flags = messages[i].arg.pagefault.flags;

		if (messages[i].event != UFFD_EVENT_PAGEFAULT || address - (uintptr_t)region->base >= region->size)
			continue;
		pending[pending_count++] = (struct pending){
			.page = (address - (uintptr_t)region->base) / PAGE,
			.touched = time,
			.write = (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
			.protection = (flags & UFFD_PAGEFAULT_FLAG_WP) != 0,
		};
	}
	return pending_count;
}

static void *fault_thread(void *argument)
{
	struct drover_region *region = argument;
	struct context *context = keep(region);
	struct pending pending[PENDING_MAX];
	uint32_t pending_count = 0;
	uint64_t spin_until = 0, woken = now();

	pthread_setname_np(pthread_self(), "drv-fault");
	while (atomic_load(&region->open)) {
		struct pollfd sources[2] = { { .fd = region->uffd, .events = POLLIN }, { .fd = region->wake, .events = POLLIN } };
		uint32_t left = 0, before = pending_count;
		uint64_t budget = 16384;

		if (pending_count == 0) {
			context_reap(region, context, 0);
			/* Writes in flight are worth a look now and then; without any, sleep until something happens. */
			poll(sources, 2, atomic_load(&context->in_flight) > 0 ? 1 : IDLE_MILLIS);
		}
		pending_count = accept_faults(region, pending, pending_count);
		/* Whoever sleeps now without our knowing has missed its wake-up: let all of them look again. */
		if (pending_count == 0 && now() - woken > IDLE_MILLIS * 1000000ull) {
			memory_wake(region, 0, region->pages);
			woken = now();
		}
		for (uint32_t i = 0; i < pending_count; i++)
			if (!answer(region, context, &pending[i]))
				pending[left++] = pending[i];
		if (pending_count > before || left < pending_count)
			spin_until = now() + knob(&region->control->spin_us) * 1000ull;
		pending_count = left;
		if (pending_count == 0)
			continue;
		if (wants_eviction(region))
			evict_some(region, context, region_batch(region), &budget);
		if (context_reap(region, context, 0) > 0)
			continue;
		help(region);
		if (now() < spin_until)
			pause_briefly();
		else if (context->reads > 0)
			context_reap(region, context, 200000);
		else
			poll(sources, 1, 1);
	}
	context_drain(region, context);
	give_up(context);
	return NULL;
}

int faults_open(struct drover_region *region)
{
	sigset_t all, saved;
	int rc;

	if (region->fault_mode == DROVER_FAULT_INLINE)
		return install();
	region->wake = eventfd(0, EFD_CLOEXEC);
	if (region->wake < 0)
		return -errno;
	/* Also for thread faults: POISON is SIGBUS too, and deserves its event. */
	rc = install();
	if (rc < 0)
		return rc;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	rc = -pthread_create(&region->thread, NULL, fault_thread, region);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);
	if (rc < 0)
		uninstall();
	return rc;
}

void faults_close(struct drover_region *region)
{
	uint64_t one = 1;

	if (region->fault_mode == DROVER_FAULT_THREAD) {
		if (write(region->wake, &one, sizeof(one)) < 0)
			return; /* cannot be: the counter is at 0 */
		pthread_join(region->thread, NULL);
		close(region->wake);
	}
	uninstall();
}
