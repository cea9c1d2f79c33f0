package sim_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	mutations = flag.String("sim.mutations", "", "take rules of the protocol out of the product and see that it shows: all, or the beginning of a name in the table")
	trusted   = flag.Bool("sim.trusted", false, "do not see as well that the product as it is passes")
)

// An edit takes a line out of the product, or puts another in its place. The
// old text must be there exactly once.
type edit struct {
	file     string // below the module's root
	old, new string
}

// A mutation is a product without one rule of DESIGN.md, section 6.
type mutation struct {
	name  string // the rule's number, and what of it is gone
	edits []edit

	// What shows the damage: a plan of the simulation within so many seeds, or
	// a test of some package.
	plan  string
	seeds int
	test  []string // package and expression
}

var table = []mutation{
	{name: "1 a stamp moves past what another owner holds", test: []string{".", "TestWriteGoesPast"}, edits: []edit{
		{"replication.go", "if round == maxRestamps || ", "if round >= 0 || "},
	}},
	{name: "1 the higher version wins", plan: "calm", seeds: 20, edits: []edit{
		{"store.go", "o.compare(e.order) >= 0", "o == e.order"},
	}},
	{name: "2 a late write is refused, and one that is known not taken again", plan: "late", seeds: 200, edits: []edit{
		{"write.go", "late := n.hlc.read() > until", "late := n.hlc.read() > until && false"},
		{"write.go", "w.until != 0 && now > w.until", "w.until != 0 && now > w.until && false"},
		{"operation.go", "if o.byID[id] != nil {\n\t\treturn nil\n\t}", "if o.byID[id] != nil && !o.byID[id].copied {\n\t\treturn nil\n\t}"},
	}},
	{name: "2 a clear that comes late is refused", test: []string{".", "TestClearThatComesLate"}, edits: []edit{
		{"clear.go", "floor.time > until.time", "floor.time == 0"},
	}},
	{name: "2 an operation has one id", plan: "links", seeds: 300, edits: []edit{
		{"operation.go", "if o.byID[id] != nil {\n\t\treturn nil\n\t}", "if false {\n\t\treturn nil\n\t}"},
	}},
	{name: "3 a write detaches the loads under way", plan: "loads", seeds: 20, edits: []edit{
		{"store.go", "\tif write {\n\t\ts.wrote(sp, key)\n\t}", "\t_ = write"},
	}},
	{name: "3 a fill is older than what was written since its load began", plan: "loads", seeds: 20, edits: []edit{
		{"read.go", "order{f.base, f.v}", "func() order { v := n.hlc.next(); return order{v, v} }()"},
		{"store.go", "\tif write {\n\t\ts.wrote(sp, key)\n\t}", "\t_ = write"},
	}},
	{name: "4 a key is loaded once", plan: "loads", seeds: 20, edits: []edit{
		{"flight.go", "f != nil && f.enter()", "f != nil && f.enter() && false"},
	}},
	{name: "5 a load is lent to who has the loader", plan: "bare", seeds: 20, edits: []edit{
		{"read.go", "if from.lend(f.id) {", "if f.id == 0 {"},
	}},
	{name: "6 the other owners confirm a conditional write", plan: "rivals", seeds: 60, edits: []edit{
		{"conditional.go", "if err := n.prepare(ctx, sp, w, base, stamp); err != nil {", "if err := ctx.Err(); err != nil {"},
	}},
	{name: "6 a conditional write replaces its base and nothing else", plan: "calm", seeds: 60, edits: []edit{
		{"conditional.go", "if other == nil {", "if other == nil || s != nil {"},
		{"conditional.go", "fromRequest, &base)", "fromRequest, nil)"},
	}},
	{name: "7 a write waits for its owners", plan: "crash", seeds: 40, edits: []edit{
		{"replication.go", "if d.quiet && d.to.former {", "if d.quiet || !d.quiet {"},
	}},
	{name: "7 the tables are read again before a write is acknowledged", test: []string{".", "TestAcknowledgedWriteIsWhere"}, edits: []edit{
		{"replication.go", "deliveries, outcome, late)\n\t\tif ctx.Err() != nil {", "deliveries, outcome, late)\n\t\tif ctx != nil {"},
	}},
	{name: "7 what no owner takes waits for the next ones", test: []string{".", "TestAllOwnersOfAKeyDie"}, edits: []edit{
		{"write.go", "n.clock.Elapsed()-ownersLost <= ownersTime", "n.clock.Elapsed() < 0"},
	}},
	{name: "8 a delete leaves a tombstone", plan: "split", seeds: 300, edits: []edit{
		{"replication.go", "n.clock.Elapsed() + tombstoneTime", "n.clock.Elapsed() + 1"},
		{"store.go", "!w.IsZero() {\n\t\ts.raiseGC", "w.IsZero() {\n\t\ts.raiseGC"}, // which does the same for a tombstone that is forgotten
	}},
	{name: "8 a clear leaves a floor", plan: "split", seeds: 200, edits: []edit{
		{"store.go", "\t\tf.clear[sp.id] = floor\n", ""},
	}},
	{name: "8 a clear goes to former owners", test: []string{".", "TestClearGoesToFormerOwners"}, edits: []edit{
		{"clear.go", "for _, to := range v.takersOf(shard, now) {", "_ = now\n\t\tfor _, to := range keepers(v.holdersOf(shard)) {"},
	}},
	{name: "8 what is forgotten leaves a floor", plan: "tiny", seeds: 60, edits: []edit{
		{"store.go", "!w.IsZero() {\n\t\ts.raiseGC", "w.IsZero() {\n\t\ts.raiseGC"},
	}},
	{name: "8 who owns a shard again starts empty", plan: "away", seeds: 100, edits: []edit{
		{"handoff.go", "if l.outdated(h.n.clock.Elapsed()) {", "if l == nil {"},
	}},
	{name: "9 who owns nothing says so", plan: "storm", seeds: 40, edits: []edit{
		{"read.go", "may be outdated.\n\t\treturn n.notOwnerReply(v, shard)", "may be outdated.\n\t\treturn mux.Reply{Code: replyAbsent}"},
	}},
	{name: "9 who sees other tables sends a write on", test: []string{".", "TestWriteGoesOnToOwners"}, edits: []edit{
		{"replication.go", "len(news) > 0 && req.Fields.Digest != ", "len(news) < 0 && req.Fields.Digest != "},
	}},
	{name: "9 a member behind a cut link is reached through others", plan: "link", seeds: 20, edits: []edit{
		{"route.go", "first := r.route.through.Swap(through) == nil", "first := false && r.route.through.Swap(through) == nil"},
	}},
	{name: "9 a refusal counts when nobody else reaches the member", plan: "resets", seeds: 40, edits: []edit{
		{"route.go", "through, gone := p.findThrough(ctx, m, r)\n\tmeaning", "through, gone := (*Member)(nil), true\n\tmeaning"},
		{"route.go", "if gone && !p.n.inbound.hears(ctx, m.Incarnation) {", "if gone {"},
	}},
	{name: "10 writes go to the target table", plan: "storm", seeds: 100, edits: []edit{
		{"view.go", "if v.target != v.current {", "if v.target == nil {"},
	}},
	{name: "10 who is about to own a key is asked when no owner answers", test: []string{".", "TestLastOwnerDies"}, edits: []edit{
		{"read.go", "if errors.Is(r.err, errNoOwner) && n.view.Load() == v ", "if ctx == nil "},
	}},
	{name: "10 two sides that meet are asked", plan: "split", seeds: 60, edits: []edit{
		{"handoff.go", "!known && m.State != MemberJoining", "!known && m.State == MemberJoining"},
	}},
	{name: "11 what a holder missed is found", plan: "split", seeds: 100, edits: []edit{
		{"compare.go", "if c.n.peers.healthy(k.with) {", "if k == nil {"},
	}},
	{name: "12 an unfilled owner asks the others", plan: "storm", seeds: 60, edits: []edit{
		{"handoff.go", "for !h.filled(shard) {", "for shard < 0 {"},
		{"read.go", "if n.handoff.filled(shardOf(sp.keyspace, key)) {", "if key != \"\" {"},
	}},
	{name: "13 expiry travels as the time that is left", plan: "storm", seeds: 40, edits: []edit{
		{"entry.go", "left := max(expires-t.elapsed, 0)", "left := max(expires-t.elapsed, time.Hour)"},
	}},
	{name: "14 a pause is noticed", plan: "pause", seeds: 40, edits: []edit{
		{"pause.go", "if time.Duration(now-before) > p.limit {", "if time.Duration(now-before) > p.limit*1000000 {"},
	}},
	{name: "14 after a pause nothing is served before the others are found", plan: "stop", seeds: 100, edits: []edit{
		{"reunite.go", "h.alone.Store(true)", "h.alone.Store(false)"},
	}},
	{name: "14 after a pause who lives at the seeds is asked again", plan: "stop", seeds: 250, edits: []edit{
		{"reunite.go", "if others && agreed {", "if others = len(v.members) > 1; others && agreed {"},
		{"discovery.go", " && !d.n.handoff.alone.Load() {", " {"},
	}},
	{name: "14 what all who were stopped hold is in doubt", test: []string{".", "TestClearedWhileTwoOwners"}, edits: []edit{
		{"read.go", "return all && !(away && held && n.doubtful(sp, key, floor))", "return all"},
	}},
	{name: "14 a clock that is far off keeps its node out", test: []string{".", "TestClockFarOff"}, edits: []edit{
		{"skew.go", "is := distance > maxSkew ||", "is := distance > maxSkew*1000000 ||"},
	}},
	{name: "15 what is announced is bounded", test: []string{".", "Announcement"}, edits: []edit{
		{"heartbeat.go", "len(b) == 0 || len(b) > maxAnnouncement", "len(b) == 0"},
	}},
	{name: "15 who has lost members looks at the seeds", plan: "reborn", seeds: 20, edits: []edit{
		{"discovery.go", "func (d *discovery) lostSome() { token(d.lost) }", "func (d *discovery) lostSome() {}"},
		{"discovery.go", "refusal.Code != mux.RefusedIncarnation ||", "refusal.Code != 0 ||"},
	}},
	{name: "16 a connection that stays deaf is closed", plan: "deaf", seeds: 20, edits: []edit{
		{"internal/mux/silence.go", "now-s.asked >= c.opts.Silence-every", "now-s.asked >= 1000*c.opts.Silence"},
		{"peers.go", "if r := p.find(incarnation); r != nil {\n\t\t\tr.gossip.drop()", "if r := p.find(incarnation); r == nil {\n\t\t\tr.gossip.drop()"},
	}},
	{name: "16 both ends prove the secret", test: []string{"./internal/mux", "Handshake|Replay|Strangers|Proof|Reflection"}, edits: []edit{
		{"internal/mux/handshake.go", "if hmac.Equal(", "if true || hmac.Equal("},
	}},
	{name: "17 a frame is bounded before it is read", test: []string{"./internal/wire", "FrameReader"}, edits: []edit{
		{"internal/wire/frame.go", "if uint64(n)+lengthSize > uint64(max) {", "if uint64(n)+lengthSize > uint64(max)<<16 {"},
	}},
}

const root = "../.."

// apply returns the files of a mutation with its edits made, by absolute path.
func (m *mutation) apply(t *testing.T) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for _, e := range m.edits {
		path, err := filepath.Abs(filepath.Join(root, e.file))
		require.NoError(t, err)
		text := files[path]
		if text == nil {
			text, err = os.ReadFile(path)
			require.NoError(t, err)
		}
		require.Equal(t, 1, bytes.Count(text, []byte(e.old)), "mutation %q: %s has moved on: how often it holds\n%s", m.name, e.file, e.old)
		files[path] = bytes.Replace(text, []byte(e.old), []byte(e.new), 1)
	}
	return files
}

// TestMutationsFitTheProduct fails when the product's text has moved away from
// under the table.
func TestMutationsFitTheProduct(t *testing.T) {
	for _, m := range table {
		t.Run(m.name, func(t *testing.T) { m.apply(t) })
	}
}

// overlay writes files for go's flag -overlay.
func overlay(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	replace := make(map[string]string)
	for path, text := range files {
		name := filepath.Join(dir, strings.ReplaceAll(filepath.Base(path), "_", "-"))
		require.NoError(t, os.WriteFile(name, text, 0o600))
		replace[path] = name
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	name := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(name, b, 0o600))
	return name
}

// detect builds the test of a mutation, over the files of overlay if there
// are such, runs it, and reports whether it failed, and its output.
func (m *mutation) detect(t *testing.T, overlay string) (found bool, output string) {
	t.Helper()
	pkg := "./internal/sim"
	args := []string{"-test.timeout=10m"}
	if m.test != nil {
		pkg = m.test[0]
		args = append(args, "-test.run="+m.test[1])
	} else {
		args = append(args, "-test.run=TestSeeds", "-sim.stop", "-sim.plan="+m.plan, fmt.Sprint("-sim.seeds=", m.seeds))
	}
	binary := filepath.Join(t.TempDir(), "mutant.test")
	build := []string{"test", "-c", "-o", binary}
	if overlay != "" {
		build = append(build, "-overlay", overlay)
	}
	compile := exec.Command("go", append(build, pkg)...)
	compile.Dir = root
	out, err := compile.CombinedOutput()
	require.NoError(t, err, "%s", out)
	run := exec.Command(binary, args...)
	run.Dir = filepath.Join(root, pkg)
	out, err = run.CombinedOutput()
	return err != nil, string(out)
}

// TestMutations takes each rule out of the product and sees that the product
// is found to be broken, and that it is not without that.
func TestMutations(t *testing.T) {
	if *mutations == "" {
		t.Skip("takes minutes: -sim.mutations=all")
	}
	healthy := make(map[string]bool)
	for _, m := range table {
		if *mutations != "all" && !strings.HasPrefix(m.name, *mutations) {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			began := time.Now()
			found, output := m.detect(t, overlay(t, m.apply(t)))
			require.True(t, found, "the product without it passes:\n%s", output)
			t.Logf("found in %v: %s", time.Since(began).Round(time.Second), firstOf(output))
			key := fmt.Sprint(m.plan, m.seeds, m.test)
			if !healthy[key] && !*trusted {
				found, output = m.detect(t, "")
				require.False(t, found, "the product as it is fails as well:\n%s", output)
				healthy[key] = true
			}
		})
	}
}

// firstOf returns the line of an output that says what was found.
func firstOf(output string) string {
	for line := range strings.Lines(output) {
		for _, mark := range []string{"* ", "Error:", "panic: "} {
			if _, text, ok := strings.Cut(line, mark); ok {
				return strings.TrimSpace(text)
			}
		}
	}
	return strings.TrimSpace(output)
}
