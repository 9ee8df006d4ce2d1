package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"bulkhead"
	"bulkhead/api"
	"bulkhead/compose"

	"github.com/spf13/cobra"
)

func (c *command) stampCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "stamp", Short: "Customers: create, change, stop, move, delete, look inside", Aliases: []string{"stamps"}}
	cmd.AddCommand(
		c.stampCreate(), c.stampList(), c.stampShow(), c.stampUpdate(),
		c.stampVerb("stop", "Stop every task; the data stays", "stopped", (*api.Client).StopStamp),
		c.stampVerb("start", "Run stamps that were stopped", "running", (*api.Client).StartStamp),
		c.stampVerb("restart", "Replace every task", "running again", (*api.Client).RestartStamp),
		c.stampMove(), c.stampDelete(), c.stampLogs(), c.stampExec(),
	)
	return family(cmd)
}

// stampFlags are what create and update share.
type stampFlags struct {
	release string
	modules []string
	set     []string
	labels  []string
	terms   termFlags
	dryRun  bool
	noWait  bool
	wait    bool
	timeout time.Duration
}

func (c *command) addStampFlags(cmd *cobra.Command, f *stampFlags) {
	fl := cmd.Flags()
	fl.StringVar(&f.release, "release", "", "version of the release (default: the latest)")
	fl.StringArrayVar(&f.modules, "module", nil, "module of the product to have; repeatable")
	fl.StringArrayVar(&f.set, "set", nil, "setting, KEY=VALUE; repeatable. @FILE reads the value from a file")
	fl.StringArrayVar(&f.labels, "label", nil, "label, KEY=VALUE; repeatable")
	f.terms.add(cmd)
	fl.BoolVar(&f.dryRun, "dry-run", false, "say what would happen and change nothing")
	c.addWaitFlags(cmd, &f.wait, &f.noWait, &f.timeout)
	c.complete(cmd, "release", func(ctx context.Context, cl *api.Client) []string {
		product, _ := cmd.Flags().GetString("product")
		releases, _ := cl.Releases(ctx, product)
		var out []string
		for _, r := range releases {
			out = append(out, r.Version)
		}
		return out
	})
}

func (c *command) addWaitFlags(cmd *cobra.Command, wait, noWait *bool, timeout *time.Duration) {
	cmd.Flags().BoolVar(wait, "wait", true, "wait until it is done")
	cmd.Flags().BoolVar(noWait, "no-wait", false, "do not wait until it is done")
	cmd.Flags().DurationVar(timeout, "timeout", 5*time.Minute, "how long to wait; what was asked for goes on")
}

func (c *command) stampCreate() *cobra.Command {
	var f stampFlags
	var product string
	var restore bool
	cmd := &cobra.Command{
		Use:   "create NAME --product P",
		Short: "Stamp out a customer",
		Example: `  bulkhead stamp create acme --product shop
  bulkhead stamp create acme --product shop --module reports --set TITLE="Acme's shop"
  bulkhead stamp create acme --restore        take back what was deleted`,
		Args: exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if product == "" && !restore {
				return usage(cmd, "--product is missing")
			}
			settings, err := c.settings(cmd, f.set, product, f.release)
			if err != nil {
				return err
			}
			labels, err := pairs(cmd, "label", f.labels)
			if err != nil {
				return err
			}
			terms, err := f.terms.onto(cmd, bulkhead.Terms{})
			if err != nil {
				return err
			}
			spec := api.StampSpec{Name: args[0], Product: product, Release: f.release, Modules: f.modules, Settings: settings, Labels: labels, Terms: terms}
			change, err := c.client().CreateStamp(cmd.Context(), spec, restore, f.dryRun)
			if err != nil {
				return err
			}
			return c.finish(cmd.Context(), change, f, "created")
		},
	}
	cmd.Flags().StringVar(&product, "product", "", "the product to stamp out")
	cmd.Flags().BoolVar(&restore, "restore", false, "take back the deleted stamp of that name with its data")
	c.addStampFlags(cmd, &f)
	c.complete(cmd, "product", productNames)
	return cmd
}

func (c *command) stampUpdate() *cobra.Command {
	var f stampFlags
	var unset []string
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change the release, modules, settings, labels or terms",
		Long:  "Change a stamp. Only the tasks that change are replaced. Settings are set onto those that the stamp has;\n--module names all modules that it has from now on (--module= for none). Terms (--region and so on) count when it is placed: one that is placed stays where it is.",
		Args:  exactly("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.release == "" && !cmd.Flags().Changed("module") && len(f.set)+len(unset)+len(f.labels) == 0 && !f.terms.given(cmd) {
				return usage(cmd, "nothing to change: give --release, --module, --set, --unset, --label or a term such as --region")
			}
			product, release := "", f.release
			var terms *bulkhead.Terms
			if len(f.set) > 0 || f.terms.given(cmd) {
				stamp, err := c.client().Stamp(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				product, release = string(stamp.Product), cmp.Or(release, stamp.Release)
				if terms, err = f.terms.onto(cmd, stamp.Terms); err != nil {
					return err
				}
			}
			settings, err := c.settings(cmd, f.set, product, release)
			if err != nil {
				return err
			}
			labels, err := pairs(cmd, "label", f.labels)
			if err != nil {
				return err
			}
			u := api.StampUpdate{Settings: settings, Unset: unset, Labels: labels, Terms: terms}
			if f.release != "" {
				u.Release = &f.release
			}
			if cmd.Flags().Changed("module") {
				modules := slices.DeleteFunc(f.modules, func(m string) bool { return m == "" })
				u.Modules = &modules
			}
			change, err := c.client().UpdateStamp(cmd.Context(), args[0], u, f.dryRun)
			if err != nil {
				return err
			}
			return c.finish(cmd.Context(), change, f, "updated")
		},
	}
	cmd.Flags().StringArrayVar(&unset, "unset", nil, "setting that returns to its default; repeatable")
	c.addStampFlags(cmd, &f)
	cmd.ValidArgsFunction = c.stampNames
	return cmd
}

// finish shows a change, waits for it unless told otherwise, and says what next.
func (c *command) finish(ctx context.Context, change api.StampChange, f stampFlags, done string) error {
	if change.DryRun {
		return c.print(change, func() { c.showChange(change) })
	}
	name := string(change.Stamp.Name)
	if change.Action == "unchanged" && change.Stamp.Settled() {
		return c.print(change, func() { c.say("stamp %s is already so: nothing changed", name) })
	}
	if f.noWait || !f.wait {
		return c.print(change, func() {
			c.say("stamp %s is being %s", name, done)
			c.next("bulkhead stamp show %s", name)
		})
	}
	begin := time.Now()
	stamp, err := c.await(ctx, change.Stamp, f.timeout)
	if err != nil {
		return err
	}
	change.Stamp = stamp
	return c.print(change, func() {
		c.say("stamp %s is %s %s", name, c.paint(green, string(stamp.Phase)), c.paint(faint, "("+took(time.Since(begin))+")"))
		if stamp.Phase == bulkhead.PhaseRunning {
			c.say("%s", stamp.URL)
			c.next("bulkhead stamp logs %s -f", name)
		}
	})
}

// showChange prints what a dry run found out.
func (c *command) showChange(change api.StampChange) {
	c.say("would %s stamp %s (%s %s), %s", change.Action, change.Stamp.Name, change.Stamp.Product, change.Stamp.Release, change.Stamp.URL)
	for _, d := range change.Differences {
		c.say("  %s", c.difference(d))
	}
	if len(change.Plan) > 0 {
		c.say("tasks:")
		for _, line := range change.Plan {
			c.say("  %s", line)
		}
	}
	c.say("dry run: nothing was changed")
}

func (c *command) difference(d api.Difference) string {
	switch {
	case d.Old == "":
		return c.paint(green, "+ "+d.Field+": "+d.New)
	case d.New == "":
		return c.paint(red, "- "+d.Field+": "+d.Old)
	}
	return c.paint(yellow, "~ "+d.Field+": "+d.Old+" -> "+d.New)
}

func (c *command) stampList() *cobra.Command {
	var q api.StampQuery
	cmd := &cobra.Command{
		Use: "list", Short: "List stamps", Aliases: []string{"ls"}, Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			stamps, err := c.client().Stamps(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.print(stamps, func() {
				if len(stamps) == 0 {
					c.say("no stamps")
					c.next("bulkhead stamp create NAME --product P")
					return
				}
				t := newTable(7, "NAME", "PRODUCT", "RELEASE", "PHASE", "SERVICES", "NODE", "AGE", "URL")
				for _, s := range stamps {
					up := 0
					for _, service := range s.Services {
						if service.Up >= service.Replicas {
							up++
						}
					}
					t.add(string(s.Name), string(s.Product), s.Release, phaseCell(s.Phase), fmt.Sprintf("%d/%d", up, len(s.Services)), stampNode(s), c.age(s.Created), s.URL)
				}
				c.table(t)
			})
		},
	}
	cmd.Flags().StringVar(&q.Product, "product", "", "only of this product")
	cmd.Flags().StringVar(&q.Phase, "phase", "", "only in this phase")
	cmd.Flags().StringVar(&q.Label, "label", "", "only with this label, KEY or KEY=VALUE")
	cmd.Flags().BoolVar(&q.Deleted, "deleted", false, "also deleted ones whose data is kept")
	c.complete(cmd, "product", productNames)
	return cmd
}

func (c *command) stampShow() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a stamp, its services and tasks", Args: exactly("NAME"), ValidArgsFunction: c.stampNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.client().Stamp(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.print(s, func() { c.showStamp(s) })
		},
	}
}

func (c *command) showStamp(s api.Stamp) {
	phase := phaseCell(s.Phase)
	line := func(name, value string) {
		if value != "" {
			c.say("%-10s%s", name, value)
		}
	}
	line("name", string(s.Name))
	line("phase", c.paint(phase.colour, phase.text))
	line("why", s.Message)
	line("product", string(s.Product)+" "+s.Release)
	line("modules", names(s.Modules))
	line("url", s.URL)
	line("node", string(s.Node))
	line("placed", s.Placement)
	switch m := s.Move; {
	case m == nil:
	case m.Ended == nil:
		line("moves", moving(m))
	case m.GivenUp:
		line("moved", fmt.Sprintf("not to %s, %s ago: %s", cmp.Or(string(m.To), "another node"), c.age(*m.Ended), m.Message))
	default:
		line("moved", moved(s.Name, m))
	}
	line("created", c.age(s.Created)+" ago")
	if s.KeptUntil != nil {
		line("kept until", s.KeptUntil.Format("2006-01-02 15:04"))
	}
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		line("label", key+"="+s.Labels[key])
	}
	for _, term := range termLines(s.Terms) {
		line("term", term)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Settings)) {
		line("setting", key+"="+plainSetting(s.Settings[key]))
	}
	for _, key := range s.Secrets {
		line("setting", key+"="+c.paint(faint, "(set)"))
	}
	c.say("")
	t := newTable(5, "SERVICE", "STATE", "UP", "RESTARTS", "IMAGE", "MESSAGE")
	for _, service := range s.Services {
		t.add(string(service.Name), stateCell(service.State), fmt.Sprintf("%d/%d", service.Up, service.Replicas), strconv.Itoa(service.Restarts), service.Image, service.Message)
	}
	c.table(t)
	if len(s.Tasks) > 0 {
		c.say("")
		t := newTable(5, "TASK", "STATE", "HEALTH", "ADDRESS", "AGE", "MESSAGE")
		for _, task := range s.Tasks {
			address := ""
			if task.Address.IsValid() {
				address = task.Address.String()
			}
			t.add(string(task.ID), task.State.String(), string(task.Health), address, c.age(task.Created), task.Message)
		}
		c.table(t)
	}
	switch s.Phase {
	case bulkhead.PhaseFailed, bulkhead.PhaseDegraded:
		c.say("")
		c.next("bulkhead stamp logs %s; bulkhead events --stamp %s", s.Name, s.Name)
	case bulkhead.PhaseDeleted:
		c.say("")
		c.next("bulkhead stamp create %s --restore, or bulkhead stamp delete %s --purge", s.Name, s.Name)
	}
}

func stateCell(state string) cell {
	switch state {
	case "up", "completed":
		return cell{state, green}
	case "failed":
		return cell{state, red}
	case "stopped":
		return cell{state, faint}
	}
	return cell{state, yellow}
}

// stampVerb is stop, start or restart: what changes stamps without further words.
func (c *command) stampVerb(verb, short, done string, do func(*api.Client, context.Context, string) (api.StampChange, error)) *cobra.Command {
	var wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: verb + " NAME...", Short: short, Args: between(1, 1000, "NAME"), ValidArgsFunction: c.stampNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			changes := []api.StampChange{}
			for _, name := range args {
				change, err := do(c.client(), cmd.Context(), name)
				if err != nil {
					return err
				}
				if wait && !noWait {
					if change.Stamp, err = c.await(cmd.Context(), change.Stamp, timeout); err != nil {
						return err
					}
				}
				changes = append(changes, change)
				switch {
				case change.Action == "unchanged":
					c.say("stamp %s is already %s", change.Stamp.Name, done)
				case wait && !noWait:
					c.say("stamp %s is %s", change.Stamp.Name, done)
				default:
					c.say("stamp %s: %s was asked for", change.Stamp.Name, verb)
				}
			}
			return c.print(changes, func() {
				if verb == "stop" {
					c.next("bulkhead stamp start %s", strings.Join(args, " "))
				}
			})
		},
	}
	c.addWaitFlags(cmd, &wait, &noWait, &timeout)
	return cmd
}

func (c *command) stampDelete() *cobra.Command {
	var purge, yes, wait, noWait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a stamp; its data is kept for 30 days unless --purge",
		Args:  exactly("NAME"), Aliases: []string{"rm"}, ValidArgsFunction: c.stampNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := bulkhead.ParseStampName(args[0])
			if err != nil {
				return err
			}
			if purge && !yes {
				if _, err := c.client().Stamp(cmd.Context(), string(name)); err != nil {
					return err
				}
				if err := c.confirm(string(name), fmt.Sprintf("This deletes stamp %s and all its data for good.", name)); err != nil {
					return err
				}
			}
			change, err := c.client().DeleteStamp(cmd.Context(), string(name), purge)
			if err != nil {
				return err
			}
			if wait && !noWait {
				stamp, err := c.await(cmd.Context(), change.Stamp, timeout)
				if err != nil {
					return err
				}
				change.Stamp = stamp
			}
			return c.print(change, func() {
				switch {
				case purge:
					c.say("stamp %s is deleted with its data", name)
					return
				case change.Action == "unchanged":
					c.say("stamp %s is deleted already; its data is kept until %s", name, change.Stamp.Deleted.Add(bulkhead.KeepDeleted).Format("2006-01-02"))
				default:
					c.say("stamp %s is deleted; its data is kept until %s", name, change.Stamp.Deleted.Add(bulkhead.KeepDeleted).Format("2006-01-02"))
				}
				c.next("bulkhead stamp create %s --restore brings it back; bulkhead stamp delete %s --purge drops its data", name, name)
			})
		},
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete the data too, for good")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.addWaitFlags(cmd, &wait, &noWait, &timeout)
	return cmd
}

// confirm asks for word to be typed.
func (c *command) confirm(word, what string) error {
	fmt.Fprintf(c.env.Stderr, "%s\nType %q to go on: ", what, word)
	line, _ := bufio.NewReader(c.env.Stdin).ReadString('\n')
	if strings.TrimSpace(line) != word {
		return bulkhead.Errorf(bulkhead.ErrInvalid, "not confirmed: nothing was changed").WithHint("type %s, or give --yes", word)
	}
	return nil
}

// settings reads KEY=VALUE as the schema of the release has it. What does not fit
// goes to the server as text, which tells everything that is wrong at once.
func (c *command) settings(cmd *cobra.Command, set []string, product, release string) (map[string]json.RawMessage, error) {
	values, err := pairs(cmd, "set", set)
	if err != nil || len(values) == 0 {
		return nil, err
	}
	var schema json.RawMessage
	if product != "" {
		r, err := c.client().Release(cmd.Context(), product, release)
		if err != nil {
			return nil, err
		}
		schema = r.Settings
	}
	out := map[string]json.RawMessage{}
	for key, value := range values {
		if path, ok := strings.CutPrefix(value, "@"); ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, bulkhead.Errorf(bulkhead.ErrInvalid, "--set %s: %w", key, err).WithHint("a value that begins with @ is read from a file")
			}
			value = strings.TrimSuffix(string(b), "\n")
		}
		if out[key], err = compose.ParseSetting(schema, key, value); err != nil {
			if out[key], err = json.Marshal(value); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func plainSetting(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}

// pairs reads the KEY=VALUE of a repeatable flag.
func pairs(cmd *cobra.Command, flag string, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			return nil, usage(cmd, "--%s %q is not KEY=VALUE", flag, s)
		}
		if _, twice := out[key]; twice {
			return nil, usage(cmd, "--%s %s is given twice", flag, key)
		}
		out[key] = value
	}
	return out, nil
}
